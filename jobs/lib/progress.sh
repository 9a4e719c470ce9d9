# shellcheck shell=bash
# For the job scripts that go on by themselves. They source this and set $store.

# finished: how many crystals have a result, be it a failure; 0 before there is a store.
finished() {
    # shellcheck disable=SC2154  # set by who sources this
    ./launch.sh status "$store" 2>/dev/null |
        awk -F'[ ,:]+' 'NR == 1 { for (i = 2; i <= NF; i++) if ($i == "done" || $i == "failed") sum += $(i - 1) }
                        END { print sum + 0 }'
}

# compute ARGUMENT...: hpcbench run. Sets $answer: 0 all done, 1 done but some failed, 75 not at the
# end, and for what would go wrong again 2 (wrong use) or 3 (wrong environment).
compute() {
    answer=0
    ./launch.sh run "$@" || answer=$?
    case $answer in
        2 | 3) return ;;
    esac
    # Asked of the store: a launcher's exit code also tells of ranks whose work others have done.
    answer=0
    ./launch.sh status "$store" --exit-code --quiet || answer=$?
}
