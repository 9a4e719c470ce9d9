#!/usr/bin/env bash
# The one way in: makes the environment, finds srun or mpiexec, starts, stops, and tells how it
# ended. Bash 4.2 and the coreutils are enough. `./launch.sh --help` explains.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
VENV=${HPCBENCH_VENV:-$ROOT/.venv}
[ "${VENV#/}" != "$VENV" ] || VENV=$PWD/$VENV
CONSTRAINTS=${HPCBENCH_CONSTRAINTS:-constraints.txt}
RANKS=${HPCBENCH_RANKS:-}
DRY_RUN=no
STAGE=no
# Modules are not looked for in the working folder: a numpy.py beside the crystals is not numpy.
export PYTHONSAFEPATH=1
PYTHON=
WRONG_USE=2
WRONG_ENVIRONMENT=3
STOPPED=75

help() {
    cat <<'END'
usage: ./launch.sh [-n RANKS] [--stage] [--dry-run] COMMAND [ARGUMENT...]

  demo [OPTION...]      install, then run the main job on jobs/demo/ with a small potential
                        that comes along; the store is demo-run/demo.h5
  run SOURCE...         hpcbench run: under srun in a Slurm allocation, flux run in a Flux instance,
                        elsewhere (also in a PBS job) under mpiexec, with one rank plain Python;
                        the command is printed before it runs
  validate --reference PATH...
                        hpcbench validate, started in the same way
  test [ARGUMENT...]    install what the tests need; lint, spelling, types, tests
                        (with arguments: only pytest, with those; -m nightly: what takes too
                        long for every day)
  setup [EXTRA...]      only install (extras: mpi, mpich, report, tables, chgnet, matgl,
                        nequix, sevennet, docs, dev; default: mpich report)
  status, show, report, export, models, doctor ...
                        as python -m hpcbench

  -n RANKS              processes to start (HPCBENCH_RANKS); by default one per GPU; without a
                        GPU 1 for run and 2 for demo; in an allocation what that says
  --stage               ranks start from a copy of the environment and the weights on their node's
                        own disk ($SLURM_TMPDIR, $TMPDIR, /tmp), made once per node: for many ranks
                        and a slow shared file system
  --dry-run             print what would run, and nothing else

Python:   $HPCBENCH_PYTHON; else the active environment (VIRTUAL_ENV, CONDA_PREFIX) if hpcbench
          is installed there; else $HPCBENCH_VENV or .venv beside this file, made on first use.
          So on a cluster: load the site's MPI, install into an environment of your own, activate.
Versions: as in $HPCBENCH_CONSTRAINTS, a constraints file of pip; default constraints.txt beside
          this file. /dev/null takes the newest.
Launcher: words in HPCBENCH_SRUN_ARGS, HPCBENCH_MPIEXEC_ARGS, HPCBENCH_FLUX_ARGS are added, e.g.
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

for part in environment launchers stage ranks; do
    # shellcheck source=/dev/null
    source "$ROOT/jobs/lib/$part.sh"
done

demo() {
    choose_python hpcbench mpich report
    cd "$ROOT"
    run_ranks 2 run jobs/demo --model mattersim-demo --out demo-run/demo.h5 "$@"
}

run() { compute run "$@"; }

validate() { compute validate "$@"; }

compute() {
    local command=$1
    choose_any_python
    case " $* " in
        *" --help "* | *" -h "* | *" --where "*) exec "$PYTHON" -m hpcbench "$@" ;;
    esac
    shift
    run_ranks 1 "$command" "$@"
}

tests() {
    local failed=
    unset PYTHONSAFEPATH # pytest looks for the tests there
    choose_python "hpcbench pytest xdist codespell_lib" dev docs mpich report tables chgnet nequix sevennet
    cd "$ROOT"
    if [ $# -gt 0 ]; then
        plainly -m pytest "$@"
        return
    fi
    # Beside the tests, which leave a core idle now and then.
    told=$(mktemp)
    lint >"$told" 2>&1 &
    beside=$!
    trap 'kill "$beside" 2>/dev/null || :; rm -f "$told"' EXIT
    # A file's tests stay together, as they share what is slow to make; the order of files is that
    # of tests/conftest.py. Where the time goes is said at the end.
    plainly -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=20 ||
        failed=" pytest;"
    wait "$beside" || failed="$failed lint, spelling or types;"
    cat "$told"
    [ -z "$failed" ] || die 1 "failed:${failed%;}"
}

# Each of the steps, whatever the others find.
lint() {
    local step code=0
    for step in "ruff check ." "ruff format --check ." codespell_lib mypy; do
        # shellcheck disable=SC2086  # several words
        plainly -m $step || code=1
    done
    return $code
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
            --stage) STAGE=yes && shift ;;
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
        demo | run | validate | setup) "$command" "$@" ;;
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
