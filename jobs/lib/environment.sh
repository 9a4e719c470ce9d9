# shellcheck shell=bash
# For launch.sh: which Python, and what is installed there.
# shellcheck disable=SC2154  # launch.sh sets what this reads

STAMP=$VENV/.hpcbench-installed

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
    (cd "$ROOT" && cat pyproject.toml "$CONSTRAINTS" && echo "$ROOT" && "$1" --version) | cksum
}

installed_extras() {
    [ -r "$STAMP" ] && [ -x "$VENV/bin/python" ] || return 0
    { read -r key && read -r extras; } <"$STAMP" || return 0
    if [ "$key" = "$(installation_key "$VENV/bin/python")" ]; then
        echo "$extras"
    fi
}

# Everything in .venv is as pyproject.toml and the constraints say, with these extras.
ensure_venv() {
    local have extra missing=no base compile=--compile wanted=$*
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
        say "# would first install hpcbench-phonons[$(join "$wanted")] into $VENV"
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
    # For tests byte code is made as it is used: that of all packages takes a minute or two.
    case " $wanted " in *" dev "*) compile=--no-compile ;; esac
    rm -f "$STAMP"
    say "launch.sh: installing hpcbench-phonons[$(join "$wanted")]; this takes some minutes, once"
    (cd "$ROOT" && "$PYTHON" -m pip install --disable-pip-version-check $compile \
        -c "$CONSTRAINTS" -e ".[$(join "$wanted")]") ||
        die $WRONG_ENVIRONMENT "the installation failed; the reason is above"
    drop_broken_torchvision
    # Once, and not by each rank: Python may be told to write no bytecode, or may not be able to.
    "$PYTHON" -m compileall -q "$ROOT/hpcbench"
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
