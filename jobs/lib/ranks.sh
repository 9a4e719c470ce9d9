# shellcheck shell=bash
# For launch.sh: starting ranks, watching and stopping them, and how they ended.
# shellcheck disable=SC2154  # launch.sh sets what this reads

LAUNCHER= # its process id
STORE=
SCRATCH=
WATCHER=
FILTER=
SIGNALS=0 # requests to stop so far
INTERRUPTS=0
ENDED=no # killed, not stopped
SEEN_BEFORE=0

# run_ranks DEFAULT_RANKS COMMAND ARGUMENT...: hpcbench run or validate, on all ranks.
run_ranks() {
    local default=$1 command=$2 code=0 weights
    shift 2
    plan_launch "$default"
    local line=("$PYTHON" -m hpcbench "$command" "$@")
    if [ $STAGE = yes ]; then
        ! is_a_rank || die "$WRONG_USE" "--stage wants to start the ranks: no srun or mpiexec before ./launch.sh"
        plan_archive
    fi
    if [ $DRY_RUN = no ] && [ -n "$ARCHIVE${LAUNCH[*]-}" ]; then
        # Wrong use is said once and at once, by one process.
        STORE=$("$PYTHON" -m hpcbench "$command" --where "$@") || exit $?
    fi
    if [ -n "$ARCHIVE" ] && { [ $DRY_RUN = yes ] || pack; }; then
        weights=$("$PYTHON" -m hpcbench "$command" --where-weights "$@") || exit $?
        line=("$ROOT/jobs/lib/staged.sh" "$ARCHIVE" "$weights" "${line[@]}")
    fi
    if [ ${#LAUNCH[@]} -gt 0 ]; then
        line=("${LAUNCH[@]}" "${line[@]}")
    fi
    if [ $DRY_RUN = yes ]; then
        print_line "${line[@]}"
        return
    fi
    if [ ${#LAUNCH[@]} -eq 0 ]; then
        is_a_rank || print_line "${line[@]}"
        exec "${line[@]}"
    fi
    trap clean_up EXIT
    trap 'on_signal INT' INT
    trap 'on_signal TERM' TERM
    trap 'on_signal USR2' USR2
    trap 'on_signal HUP' HUP
    print_line "${line[@]}"
    start "${line[@]}"
    await "$LAUNCHER" || code=$?
    finish "$code"
}

start() {
    SEEN_BEFORE=$(events_size)
    local output=/dev/stdout errors=/dev/stderr
    if [ -t 2 ]; then
        SCRATCH=$(mktemp -d)
        # The table is kept back until the bar is gone; errors go through in between.
        if [ -t 1 ]; then
            output=$SCRATCH/output
            COLUMNS=$(tput cols 2>/dev/null || echo 100)
            export COLUMNS
            [ -n "${NO_COLOR:-}" ] || export FORCE_COLOR=${FORCE_COLOR:-1}
        fi
        errors=$SCRATCH/errors
        mkfifo "$errors"
        lines_above_bar <"$errors" &
        FILTER=$!
        "$PYTHON" -m hpcbench status "$STORE" --watch </dev/null &
        WATCHER=$!
    fi
    # In a process group of its own: a Ctrl-C at the terminal comes to this script only.
    set -m
    if [ "$errors" = /dev/stderr ]; then
        "$@" </dev/null &
    elif [ "$output" = /dev/stdout ]; then
        "$@" </dev/null 2>"$errors" &
    else
        "$@" </dev/null >"$output" 2>"$errors" &
    fi
    LAUNCHER=$!
    set +m
    if [ $SIGNALS -gt 0 ]; then # came before there was a launcher
        forward
    fi
}

lines_above_bar() {
    local line
    trap '' INT # a Ctrl-C at the terminal comes here too
    while IFS= read -r line || [ -n "$line" ]; do
        printf '\r\033[K%s\n' "$line" >&2
    done
}

# wait, gone on with after each signal; the exit code of the process.
await() {
    local before code
    while :; do
        before=$SIGNALS
        code=0
        wait "$1" || code=$?
        [ "$before" != "$SIGNALS" ] || return $code
    done
}

alive() { kill -0 "$1" 2>/dev/null; }

events_size() {
    local bytes
    bytes=$(cat "$STORE.run/events"/rank-*.jsonl 2>/dev/null | wc -c) || :
    echo $((bytes))
}

# An event of this launch: all ranks are there, and take signals for a request to stop.
work_has_begun() { [ "$(events_size)" != "$SEEN_BEFORE" ]; }

on_signal() {
    SIGNALS=$((SIGNALS + 1))
    [ "$1" != INT ] || INTERRUPTS=$((INTERRUPTS + 1))
    [ -n "$LAUNCHER" ] || return 0
    if [ "$1" = INT ] && [ $INTERRUPTS -gt 1 ] || ! alive "$LAUNCHER"; then
        end_now
    elif [ $SIGNALS = 1 ]; then
        forward
    fi
}

forward() {
    if work_has_begun; then
        say_above "launch.sh: stopping; what is finished is being written (Ctrl-C again: end at once)"
        signal_launcher $STOP 2>/dev/null || :
    else
        # No crystal has been begun, and ranks that are still starting could not answer.
        say_above "launch.sh: ended before any work was done"
        end_now
    fi
}

signal_launcher() {
    # A signal ends flux run and leaves its ranks behind.
    if [ "${LAUNCH[0]}" = flux ]; then
        flux job kill --signal="$1" "$(flux job last)"
    else
        kill "-$1" "$LAUNCHER"
    fi
}

say_above() {
    if [ -n "$WATCHER" ]; then
        printf '\r\033[K' >&2 || :
    fi
    say "$@"
}

end_now() {
    local ranks pid
    ENDED=yes
    alive "$LAUNCHER" || return 0
    ranks=$(descendants "$LAUNCHER")
    # The shell would tell of every process that it has killed.
    exec 9>&2 2>/dev/null
    signal_launcher $END || :
    for _ in $(seq 50); do
        alive "$LAUNCHER" || break
        sleep 0.2
    done
    kill -KILL -- "-$LAUNCHER" || :
    for pid in $ranks; do
        kill -KILL "$pid" || :
    done
    wait "$LAUNCHER" || :
    exec 2>&9 9>&-
}

descendants() {
    ps -e -o pid= -o ppid= | awk -v top="$1" '
        { parent[$1] = $2 }
        END {
            for (pid in parent) {
                p = pid
                while (p in parent && parent[p] != top && parent[p] > 1) p = parent[p]
                if (p in parent && parent[p] == top) print pid
            }
        }'
}

stop_watching() {
    if [ -n "$WATCHER" ]; then
        kill -TERM "$WATCHER" 2>/dev/null || :
        wait "$WATCHER" 2>/dev/null || :
        WATCHER=
        # The bar's line, and the cursor that it had hidden.
        printf '\r\033[K\033[?25h' >&2 || :
    fi
    if [ -n "$FILTER" ]; then
        # A stray process may hold the pipe open: do not wait for that one.
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            alive "$FILTER" || break
            sleep 0.1
        done
        kill -TERM "$FILTER" 2>/dev/null || :
        wait "$FILTER" 2>/dev/null || :
        FILTER=
    fi
    if [ -n "$SCRATCH" ]; then
        [ ! -f "$SCRATCH/output" ] || cat "$SCRATCH/output" || :
        rm -rf "$SCRATCH"
        SCRATCH=
    fi
}

clean_up() {
    trap '' INT TERM USR2 HUP
    stop_watching
    if [ -n "$LAUNCHER" ] && alive "$LAUNCHER"; then
        end_now
    fi
}

# Launchers mix the exit codes of their ranks: what became of the run is asked of the store.
finish() {
    local code=$1 answer=0
    LAUNCHER=
    stop_watching
    if [ $ENDED = yes ]; then
        exit $STOPPED
    fi
    if ! work_has_begun; then
        case $code in
            "$WRONG_USE" | "$WRONG_ENVIRONMENT") exit "$code" ;;
            0) ;;
            *)
                die $WRONG_ENVIRONMENT "the launcher ended with exit code $code before any work was done$(
                    [ "${LAUNCH[0]}" != srun ] ||
                        printf '%s' "; if job ${SLURM_JOB_ID:-} is over: unset SLURM_JOB_ID"
                )"
                ;;
        esac
    fi
    "$PYTHON" -m hpcbench status "$STORE" --exit-code --quiet || answer=$?
    if [ "$answer" != "$STOPPED" ] && segments_are_left; then
        # A rank died before it could do this, or cannot: the store may be damaged. Where there is
        # more to come, the next run does it.
        "$PYTHON" -m hpcbench report --table "$STORE" ||
            ! segments_are_left || answer=$WRONG_ENVIRONMENT
    fi
    case "$answer $code" in
        "$STOPPED $WRONG_USE" | "$STOPPED $WRONG_ENVIRONMENT") answer=$code ;;
        "$STOPPED $STOPPED" | 0\ * | 1\ * | "$WRONG_ENVIRONMENT "*) ;;
        "$STOPPED "*)
            [ $SIGNALS -gt 0 ] || say "launch.sh: a rank died (the launcher's exit code was $code):" \
                "the same command goes on from here"
            ;;
    esac
    exit "$answer"
}

segments_are_left() {
    local path
    for path in "$STORE.run/segments"/segment-*.h5; do
        [ ! -e "$path" ] || return 0
    done
    return 1
}
