#!/bin/bash
# hpcbench on a Slurm cluster: one rank per GPU. From the repository's folder:
#
#   sbatch jobs/slurm.sh crystals/ --out store.h5
#   sbatch --nodes=8 --partition=gpu --account=me jobs/slurm.sh     (settings in ./hpcbench.toml)
#
# Options of sbatch before the script win over the lines below. If the time runs out, submit the
# same again: the store is continued.
#
#SBATCH --job-name=hpcbench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
# A node that dies takes its ranks along, and not the job.
#SBATCH --no-kill
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
# Two minutes before the end every rank gets SIGUSR2 and writes what it has finished. Without
# the prefix B: it goes to the job steps, where the ranks are, and not to this shell.
#SBATCH --signal=USR2@120
set -eu

# Of the site's modules, those that mpi4py was built with, and your environment, if you have one:
# module load ...
# source ~/envs/hpcbench/bin/activate

cd "$SLURM_SUBMIT_DIR"
# exec: a signal to this shell is one to launch.sh.
exec ./launch.sh run "$@"
