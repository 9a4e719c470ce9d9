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
# A node that dies takes its ranks along, and not the job.
#SBATCH --no-kill
#SBATCH --no-requeue
#SBATCH --output=%x-%j.out
# Two minutes before the end the ranks (not this shell) get SIGUSR2 and write what is finished.
#SBATCH --signal=USR2@120
set -e

# As an argument: --export may keep variables from the next job.
finished_before=
case ${1-} in
    --finished-before=*) finished_before=${1#*=} && shift ;;
esac
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
submit_next() { sbatch "${@:2}" "${submission[@]}" jobs/slurm-chain.sh "--finished-before=$1" "${all[@]}"; }

if [ -z "$finished_before" ]; then
    submit_next -1
    exit
fi

# module load ...
# source ~/envs/hpcbench/bin/activate

cd "$SLURM_SUBMIT_DIR"
source jobs/lib/progress.sh
store=$(./launch.sh run --where "$@")
now=$(finished)
if [ "$now" -le "$finished_before" ]; then
    echo "the chain ends: the job before this one has finished no crystal"
    exit 1
fi
next=$(submit_next "$now" --parsable --dependency="afternotok:$SLURM_JOB_ID")
echo "$now crystals finished; job $next goes on if this one does not come to the end"
compute "$@"
[ $answer = 75 ] || scancel "$next"
exit $answer
