#!/usr/bin/env bash
# The one way in: makes the environment, finds srun or mpiexec, starts, stops, and tells how it
# ended. Bash 4.2 and the coreutils are enough. `./launch.sh --help` explains.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
VENV=${HPCBENCH_VENV:-$ROOT/.venv}
[ "${VENV#/}" != "$VENV" ] || VENV=$PWD/$VENV
STAMP=$VENV/.hpcbench-installed
MPIEXEC_WORDS=${HPCBENCH_MPIEXEC_ARGS:-}
SRUN_WORDS=${HPCBENCH_SRUN_ARGS:-}
# They are meant for this script: the program takes HPCBENCH_* for settings.
unset HPCBENCH_MPIEXEC_ARGS HPCBENCH_SRUN_ARGS

RANKS=${HPCBENCH_RANKS:-}
DRY_RUN=no
PYTHON=
WRONG_USE=2
WRONG_ENVIRONMENT=3
STOPPED=75

help() {
    cat <<'END'
usage: ./launch.sh [-n RANKS] [--dry-run] COMMAND [ARGUMENT...]

  demo [OPTION...]      install, then run the main job on jobs/demo/ with a small potential
                        that comes along; the store is demo-run/demo.h5
  run SOURCE...         hpcbench run: under srun in a Slurm allocation, elsewhere under mpiexec,
                        with one rank plain Python; the command is printed before it runs
  test [ARGUMENT...]    install what the tests need; lint, types, tests
                        (with arguments: only pytest, with those)
  setup [EXTRA...]      only install (extras: mpi, mpich, report, chgnet, sevennet, dev;
                        default: mpich report)
  status, show, report, export, models, doctor ...
                        as python -m hpcbench

  -n RANKS              processes to start (HPCBENCH_RANKS); by default one per GPU; without a
                        GPU 1 for run and 2 for demo; in Slurm what the allocation says
  --dry-run             print what would run, and nothing else

Python:   $HPCBENCH_PYTHON; else the active environment (VIRTUAL_ENV, CONDA_PREFIX) if hpcbench
          is installed there; else $HPCBENCH_VENV or .venv beside this file, made on first use.
          So on a cluster: load the site's MPI, install into an environment of your own, activate.
Launcher: words in HPCBENCH_SRUN_ARGS and HPCBENCH_MPIEXEC_ARGS are added to its options, e.g.
          HPCBENCH_SRUN_ARGS="--mpi=pmix --cpu-bind=cores".
Ctrl-C:   once, and every rank writes what it has finished (so do SIGTERM and SIGUSR2); twice
          ends at once. The same command goes on from there.
Exit:     0 done, 1 some crystals failed, 2 wrong use, 3 wrong environment, 75 stopped before
          the end
END
}

# A terminal that has gone away must not end the script while ranks are writing.
say() { printf '%s\n' "$*" >&2 || :; }
die() {
    say "launch.sh: $2"
    exit "$1"
}

# ---------------------------------------------------------------- the environment

# MatterSim has wheels for 3.11 to 3.13, so those come first.
find_base_python() {
    local name want
    for want in '(3, 11) <= v <= (3, 13)' 'v >= (3, 11)'; do
        for name in python3 python3.13 python3.12 python3.11 python; do
            if "$name" -c "import sys; v = sys.version_info[:2]; sys.exit(not ($want))" \
                >/dev/null 2>&1; then
                command -v "$name"
                return
            fi
        done
    done
    return 1
}

# Not from the working folder: there hpcbench can be imported without being installed.
has_modules() {
    local python=$1
    shift
    (cd / && "$python" -c 'import sys
from importlib.util import find_spec
sys.exit(any(find_spec(name) is None for name in sys.argv[1:]))' "$@") >/dev/null 2>&1
}

installation_key() {
    { cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" && echo "$ROOT" && "$1" --version; } | cksum
}

installed_extras() {
    [ -r "$STAMP" ] && [ -x "$VENV/bin/python" ] || return 0
    { read -r key && read -r extras; } <"$STAMP" || return 0
    if [ "$key" = "$(installation_key "$VENV/bin/python")" ]; then
        echo "$extras"
    fi
}

# Everything in .venv is as pyproject.toml and constraints.txt say, with these extras.
ensure_venv() {
    local have extra missing=no base wanted=$*
    have=$(installed_extras)
    for extra in base $wanted; do
        case " $have " in
            *" $extra "*) ;;
            *" mpi "*) [ "$extra" = mpich ] || missing=yes ;; # the site's MPI instead
            *) missing=yes ;;
        esac
    done
    PYTHON=$VENV/bin/python
    [ $missing = yes ] || return 0
    if [ $DRY_RUN = yes ]; then
        say "# would first install hpcbench[$(join "$wanted")] into $VENV"
        return 0
    fi
    if [ -n "${SLURM_JOB_ID:-}" ]; then
        die $WRONG_ENVIRONMENT "nothing is installed in $VENV, and a job is no place for it: \
give ./launch.sh setup on the login node, or activate an environment that has hpcbench"
    fi
    if ! "$PYTHON" -c '' 2>/dev/null; then
        base=$(find_base_python) ||
            die $WRONG_ENVIRONMENT "no Python 3.11 or newer found (looked for python3, python3.1x)"
        say "launch.sh: making $VENV with $("$base" --version)"
        "$base" -m venv --clear "$VENV" ||
            die $WRONG_ENVIRONMENT "$base cannot make an environment (Debian: apt install python3-venv)"
    fi
    wanted=$(for extra in $wanted $have; do echo "$extra"; done | grep -v '^base$' | sort -u | xargs)
    rm -f "$STAMP"
    say "launch.sh: installing hpcbench[$(join "$wanted")]; this takes some minutes, once"
    (cd "$ROOT" && "$PYTHON" -m pip install --disable-pip-version-check \
        -c constraints.txt -e ".[$(join "$wanted")]") ||
        die $WRONG_ENVIRONMENT "the installation failed; the reason is above"
    drop_broken_torchvision
    printf '%s\nbase %s\n' "$(installation_key "$PYTHON")" "$wanted" >"$STAMP"
}

join() { printf '%s' "${1// /,}"; }

# MatterSim lists torchvision and torchaudio and uses neither. Built for another torch (a CPU
# build, say) torchvision does not load, and takes torchmetrics and MatterSim down with it.
drop_broken_torchvision() {
    if has_modules "$PYTHON" torchvision && ! "$PYTHON" -W ignore -c 'import torchvision' >/dev/null 2>&1; then
        say "launch.sh: removing torchvision and torchaudio: they do not load with this torch," \
            "nothing here uses them, and MatterSim fails where torchvision is broken"
        "$PYTHON" -m pip uninstall --yes --quiet torchvision torchaudio
    fi
}

# choose_python MODULES EXTRA...: the interpreter to use; the modules must be there.
choose_python() {
    local modules=$1 home
    shift
    if [ -n "${HPCBENCH_PYTHON:-}" ]; then
        PYTHON=$(command -v "$HPCBENCH_PYTHON") ||
            die $WRONG_ENVIRONMENT "HPCBENCH_PYTHON=$HPCBENCH_PYTHON cannot be run"
        [ "${PYTHON#/}" != "$PYTHON" ] || PYTHON=$PWD/$PYTHON
        return
    fi
    for home in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
        # shellcheck disable=SC2086  # several words
        if [ -n "$home" ] && has_modules "$home/bin/python" $modules; then
            PYTHON=$home/bin/python
            return
        fi
    done
    ensure_venv "$@"
}

# An environment that is there will do, whatever extras it has; else it is made.
choose_any_python() {
    local have
    have=$(installed_extras)
    # shellcheck disable=SC2086  # several words
    choose_python hpcbench ${have:-mpich report}
}

# ---------------------------------------------------------------- what to start

in_slurm() { [ -n "${SLURM_JOB_ID:-}" ] && command -v srun >/dev/null; }

# This script itself was started once per rank.
is_a_rank() {
    [ "${SLURM_STEP_NUM_TASKS:-1}" -gt 1 ] || [ "${PMI_SIZE:-1}" -gt 1 ] ||
        [ "${OMPI_COMM_WORLD_SIZE:-1}" -gt 1 ]
}

count_gpus() {
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        printf '%s' "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | grep -c '^[^-]' || :
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi -L 2>/dev/null | grep -c '^GPU' || :
    else
        echo 0
    fi
}

# Ranks outside Slurm; $1 is how many there are to be without a GPU.
count_ranks() {
    local gpus cores
    if [ -n "$RANKS" ]; then
        echo "$RANKS"
        return
    fi
    gpus=$(count_gpus)
    # By themselves these say how many nproc tells.
    cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
    if [ "$gpus" -gt 0 ]; then
        echo "$gpus"
    elif [ "$1" -lt "$cores" ]; then
        echo "$1"
    else
        echo "$cores"
    fi
}

# What the MPI of mpi4py says of itself; nothing where there is none.
mpi_library() {
    "$PYTHON" -c 'import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version().splitlines()[0].strip("\0"))' 2>/dev/null || :
}

# Fills LAUNCH with the launcher and its options; STOP and END are the signals by which it lets
# ranks finish, and kills them.
LAUNCH=()
STOP=TERM
END=KILL
plan_launch() {
    local library ranks=1
    in_slurm || ranks=$(count_ranks "$1")
    if is_a_rank || { ! in_slurm && [ "$ranks" = 1 ]; }; then
        return
    fi
    library=$(mpi_library)
    if in_slurm; then
        plan_srun "$library"
    else
        plan_mpiexec "$library" "$ranks"
    fi
}

add_words() {
    local words
    read -r -a words <<<"$1"
    [ ${#words[@]} -eq 0 ] || LAUNCH+=("${words[@]}")
}

plan_srun() {
    # One rank's end, good or bad, must not end the others.
    LAUNCH=(srun --kill-on-bad-exit=0 --no-kill --wait=0)
    # srun kills its ranks when it gets SIGTERM, and passes SIGUSR2 on.
    STOP=USR2
    END=TERM
    case " $SRUN_WORDS" in
        *" --mpi"*) ;;
        *) add_words "$(srun_interface "$1")" ;;
    esac
    if [ -n "$RANKS" ]; then
        LAUNCH+=("--ntasks=$RANKS")
    elif [ -z "${SLURM_NTASKS:-}" ] && [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then
        LAUNCH+=("--ntasks-per-node=$SLURM_GPUS_ON_NODE")
    fi
    # Since Slurm 22.05 srun no longer takes this over from sbatch.
    if [ -n "${SLURM_CPUS_PER_TASK:-}" ] && [ -z "${SRUN_CPUS_PER_TASK:-}" ]; then
        LAUNCH+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
    fi
    add_words "$SRUN_WORDS"
}

srun_interface() {
    local wanted
    case $1 in
        Open\ MPI*) wanted=pmix ;;
        CRAY*) wanted=cray_shasta ;;
        "") return ;; # no mpi4py: the program says so better
        *) wanted=pmi2 ;;
    esac
    # Where the site has built another set, its default is the best guess.
    if srun --mpi=list 2>&1 | grep -qw "$wanted"; then
        echo "--mpi=$wanted"
    fi
}

plan_mpiexec() {
    local mpiexec
    mpiexec=$(dirname "$PYTHON")/mpiexec
    # mpiexec of another MPI would start processes that do not find each other.
    [ -x "$mpiexec" ] || mpiexec=$(command -v mpiexec || command -v mpirun) ||
        mpiexec=mpiexec
    LAUNCH=("$mpiexec")
    case $1 in
        Open\ MPI\ v[1-4].*)
            LAUNCH+=(--enable-recovery --mca orte_abort_on_non_zero_status 0)
            STOP=USR2 END=TERM
            ;;
        Open\ MPI*)
            # Ranks are killed half a second after mpiexec gets SIGTERM.
            LAUNCH+=(--rtos "recoverable,error-nonzero-status=false")
            STOP=USR2 END=TERM
            ;;
        *Intel*) ;;
        *)
            # MPICH: hydra hands SIGTERM to the ranks, and dies of SIGUSR2. Its ranks die with it.
            LAUNCH+=(-disable-auto-cleanup)
            ;;
    esac
    LAUNCH+=(-n "$2")
    add_words "$MPIEXEC_WORDS"
}

print_line() {
    local line
    printf -v line '%q ' "$@"
    printf '%s\n' "+ ${line% }" >&2 || :
}

# ---------------------------------------------------------------- starting, watching, stopping

LAUNCHER= # its process id
STORE=
SCRATCH=
WATCHER=
FILTER=
SIGNALS=0 # requests to stop so far
INTERRUPTS=0
ENDED=no # killed, not stopped
SEEN_BEFORE=0

# run_ranks DEFAULT_RANKS ARGUMENT...: hpcbench run, on all ranks.
run_ranks() {
    local default=$1 code=0
    shift
    plan_launch "$default"
    local line=("$PYTHON" -m hpcbench run "$@")
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
    # Wrong use is said once and at once, by one process.
    STORE=$("$PYTHON" -m hpcbench run --where "$@") || exit $?
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
        kill -$STOP "$LAUNCHER" 2>/dev/null || :
    else
        # No crystal has been begun, and ranks that are still starting could not answer.
        say_above "launch.sh: ended before any work was done"
        end_now
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
    kill -$END "$LAUNCHER" || :
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
            *) die $WRONG_ENVIRONMENT "the launcher ended with exit code $code before any work was done" ;;
        esac
    fi
    if segments_are_left; then
        # A rank died before it could do this.
        "$PYTHON" -m hpcbench report --table "$STORE" || :
    fi
    "$PYTHON" -m hpcbench status "$STORE" --exit-code --quiet || answer=$?
    case "$answer $code" in
        "$STOPPED $WRONG_USE" | "$STOPPED $WRONG_ENVIRONMENT") answer=$code ;;
        "$STOPPED $STOPPED" | 0\ * | 1\ *) ;;
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

# ---------------------------------------------------------------- commands

demo() {
    choose_python hpcbench mpich report
    cd "$ROOT"
    run_ranks 2 jobs/demo --model mattersim-demo --out demo-run/demo.h5 "$@"
}

run() {
    choose_any_python
    case " $* " in
        *" --help "* | *" -h "* | *" --where "*) exec "$PYTHON" -m hpcbench run "$@" ;;
    esac
    run_ranks 1 "$@"
}

tests() {
    local step failed=
    choose_python "hpcbench pytest" dev mpich report chgnet sevennet
    cd "$ROOT"
    if [ $# -gt 0 ]; then
        plainly -m pytest "$@"
        return
    fi
    for step in "ruff check ." "ruff format --check ." mypy pytest; do
        # shellcheck disable=SC2086  # several words
        plainly -m $step || failed="$failed $step;"
    done
    [ -z "$failed" ] || die 1 "failed:${failed%;}"
}

# One process, with nothing else around it.
plainly() {
    print_line "$PYTHON" "$@"
    [ $DRY_RUN = yes ] || "$PYTHON" "$@"
}

setup() {
    [ $# -gt 0 ] || set -- mpich report
    ensure_venv "$@"
    say "launch.sh: installed in $VENV"
}

main() {
    while [ $# -gt 0 ]; do
        case $1 in
            -n)
                [ $# -gt 1 ] || die $WRONG_USE "-n wants a number"
                RANKS=$2
                shift 2
                ;;
            -n*) RANKS=${1#-n} && shift ;;
            --dry-run) DRY_RUN=yes && shift ;;
            -h | --help | help) help && exit ;;
            -*) die $WRONG_USE "unknown option $1 (./launch.sh --help)" ;;
            *) break ;;
        esac
    done
    case $RANKS in
        "") ;;
        *[!0-9]* | 0*) die $WRONG_USE "-n wants a number above 0, not '$RANKS'" ;;
    esac
    if [ $# -eq 0 ]; then
        help
        exit $WRONG_USE
    fi
    local command=$1
    shift
    case $command in
        demo | run | setup) "$command" "$@" ;;
        test) tests "$@" ;;
        *)
            choose_any_python
            plain=("$PYTHON" -m hpcbench "$command" "$@")
            if [ $DRY_RUN = yes ]; then
                print_line "${plain[@]}"
            else
                exec "${plain[@]}"
            fi
            ;;
    esac
}

main "$@"
