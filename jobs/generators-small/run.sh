#!/usr/bin/env bash
# A few dozen crystals of five generators, from their own files to the report, with CHGNet, whose
# weights come with its package.
#
#     HPCBENCH_REFERENCE_DATA=... jobs/generators-small/run.sh [OPTIONS OF hpcbench run]
#
# The store and the report come into the working folder. Some 20 minutes on two cores.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${HPCBENCH_REFERENCE_DATA:?must name the folder in which generated/ and reference-sets/ are}"
export HPCBENCH_REFERENCE_DATA

"$here/../../launch.sh" run --config "$here/hpcbench.toml" \
    --against "$HPCBENCH_REFERENCE_DATA"/reference-sets/*.csv* \
    --out generators-small.h5 "$@"
