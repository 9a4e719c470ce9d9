#!/bin/bash
# hpcbench on a Slurm cluster as a chain of jobs: each submits the next one before it begins, which
# starts if this one does not come to the end, for whatever reason. From the repository's folder,
# without sbatch, with its options before the --:
#
#   jobs/slurm-chain.sh --nodes=8 --account=me -- crystals/ --out store.h5
#
# It ends when all is done, on an error, and when a link has not finished a single crystal. To end
# it before: scancel --name=hpcbench-chain (cancelling only the link that runs starts the next).
#
#SBATCH --job-name=hpcbench-chain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --no-requeue
#SBATCH --output=%x-%j.out
# Two minutes before the end the ranks (not this shell) get SIGUSR2 and write what is finished.
#SBATCH --signal=USR2@120
set -e

all=("$@")
submission=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    submission+=("$1")
    shift
done
if [ $# = 0 ]; then
    echo "usage: jobs/slurm-chain.sh [SBATCH OPTION...] -- [ARGUMENT OF hpcbench run...]" >&2
    exit 2
fi
shift
submission+=(jobs/slurm-chain.sh "${all[@]}")

if [ -z "$CHAIN_FINISHED" ]; then
    export CHAIN_FINISHED=-1
    exec sbatch "${submission[@]}"
fi

# module load ...
# source ~/envs/hpcbench/bin/activate

cd "$SLURM_SUBMIT_DIR"
source jobs/lib/progress.sh
store=$(./launch.sh run --where "$@")
now=$(finished)
if [ "$now" -le "$CHAIN_FINISHED" ]; then
    echo "the chain ends: the job before this one has finished no crystal"
    exit 1
fi
export CHAIN_FINISHED=$now
next=$(sbatch --parsable --dependency="afternotok:$SLURM_JOB_ID" "${submission[@]}")
echo "$now crystals finished; job $next goes on if this one does not come to the end"
compute "$@"
[ $answer = 75 ] || scancel "$next"
exit $answer
