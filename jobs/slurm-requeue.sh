#!/bin/bash
# hpcbench on a Slurm cluster for longer than one walltime: when its time is nearly over, the job
# goes back into the queue, under its number, and then goes on. From the repository's folder:
#
#   sbatch jobs/slurm-requeue.sh crystals/ --out store.h5
#
# It ends when all is done, on an error, and when a start has not finished a single crystal.
#
#SBATCH --job-name=hpcbench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
# A node that dies takes its ranks along, and not the job.
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
# Two minutes before the end the ranks (not this shell) get SIGUSR2 and write what is finished.
#SBATCH --signal=USR2@120
set -eu

# module load ...
# source ~/envs/hpcbench/bin/activate

cd "$SLURM_SUBMIT_DIR"
source jobs/lib/progress.sh
store=$(./launch.sh run --where "$@")
before=$(finished)
echo "start $((${SLURM_RESTART_COUNT:-0} + 1)): $before crystals finished"
compute "$@"
if [ $answer = 75 ]; then
    after=$(finished)
    if [ "$after" -gt "$before" ]; then
        echo "back into the queue: $after crystals finished"
        scontrol requeue "$SLURM_JOB_ID"
        exit
    fi
    echo "not again: this start has finished no crystal"
fi
exit $answer
