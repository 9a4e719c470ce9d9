# shellcheck shell=bash
# For launch.sh: by which launcher, and how many ranks.
# shellcheck disable=SC2154  # launch.sh sets what this reads

MPIEXEC_WORDS=${HPCBENCH_MPIEXEC_ARGS:-}
SRUN_WORDS=${HPCBENCH_SRUN_ARGS:-}
FLUX_WORDS=${HPCBENCH_FLUX_ARGS:-}
# They are meant for this script: the program takes HPCBENCH_* for settings.
unset HPCBENCH_MPIEXEC_ARGS HPCBENCH_SRUN_ARGS HPCBENCH_FLUX_ARGS

# What there is in this allocation. PBS and Flux have not been tried on a real one; the lines that
# are made for them have.
in_slurm() { [ -n "${SLURM_JOB_ID:-}" ] && command -v srun >/dev/null; }
in_flux() { [ -n "${FLUX_URI:-}" ] && command -v flux >/dev/null; }
in_pbs() { [ -n "${PBS_JOBID:-}" ] && [ -r "${PBS_NODEFILE:-}" ]; }

# This script itself was started once per rank.
is_a_rank() {
    [ "${SLURM_STEP_NUM_TASKS:-1}" -gt 1 ] || [ "${PMI_SIZE:-1}" -gt 1 ] ||
        [ "${OMPI_COMM_WORLD_SIZE:-1}" -gt 1 ] || [ "${FLUX_JOB_SIZE:-1}" -gt 1 ]
}

# GPUs of this machine that a process started here would see, NVIDIA's or AMD's.
count_gpus() {
    local name
    for name in CUDA_VISIBLE_DEVICES HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES; do
        if [ -n "${!name+set}" ]; then
            printf '%s' "${!name}" | tr ',' '\n' | grep -c '^[^-]' || :
            return
        fi
    done
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi -L 2>/dev/null | grep -c '^GPU' || :
    elif command -v rocm-smi >/dev/null; then
        rocm-smi --showid 2>/dev/null | grep -o '^GPU\[[0-9]*\]' | sort -u | grep -c . || :
    else
        echo 0
    fi
}

# Ranks where Slurm does not say; $1 is how many there are to be on a machine without a GPU.
count_ranks() {
    local gpus cores
    if [ -n "$RANKS" ]; then
        echo "$RANKS"
        return
    fi
    if in_flux; then
        gpus=$(flux_has ngpus)
        cores=$(flux_has ncores)
        [ "$gpus" -gt 0 ] && echo "$gpus" || echo "$cores"
        return
    fi
    gpus=$(count_gpus)
    # By themselves these say how many nproc tells.
    cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
    if in_pbs; then
        if [ "$gpus" -gt 0 ]; then
            echo $((gpus * $(sort -u "$PBS_NODEFILE" | grep -c .)))
        else
            grep -c . "$PBS_NODEFILE"
        fi
    elif [ "$gpus" -gt 0 ]; then
        echo "$gpus"
    elif [ "$1" -lt "$cores" ]; then
        echo "$1"
    else
        echo "$cores"
    fi
}

# How much of something the Flux instance has, all nodes together.
flux_has() {
    local number
    number=$(flux resource list --states=free,allocated --no-header --format="{$1}" | awk '{ sum += $1 } END { print sum }')
    echo $((number))
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
    local library ranks
    if is_a_rank; then
        return
    fi
    # Slurm knows how many. A Flux inside of it comes first.
    if in_flux || ! in_slurm; then
        ranks=$(count_ranks "$1")
        [ "$ranks" != 1 ] || return 0
    fi
    library=$(mpi_library)
    if in_flux; then
        plan_flux "$ranks"
    elif in_slurm; then
        plan_srun "$library"
    else
        forget_slurm
        plan_mpiexec "$library" "$ranks"
    fi
}

# Without srun mpiexec would look for it all the same, and for hosts that it cannot reach: in a
# container, or where a shell has kept the variables of another job.
forget_slurm() {
    local name
    [ -n "${SLURM_JOB_ID:-}${SLURM_JOBID:-}" ] || return 0
    say "launch.sh: there is no srun here: on this host alone, whatever SLURM_* says"
    for name in $(compgen -A export SLURM_); do
        case $name in
            SLURM_JOB_END_TIME | SLURM_TMPDIR) ;;
            *) unset "$name" ;;
        esac
    done
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
    local wanted known
    case $1 in
        Open\ MPI*) wanted=pmix ;;
        CRAY*) wanted=cray_shasta ;;
        "") return ;; # no mpi4py: the program says so better
        *) wanted=pmi2 ;;
    esac
    # Where the site has built another set, its default is the best guess.
    known=$(srun --mpi=list 2>&1) || :
    if grep -qw "$wanted" <<<"$known"; then
        echo "--mpi=$wanted"
    fi
}

plan_flux() {
    local gpus cores
    gpus=$(flux_has ngpus)
    cores=$(flux_has ncores)
    # By default half a minute after the first rank's end the others are ended.
    LAUNCH=(flux run -o exit-timeout=none "--ntasks=$1")
    if [ "$gpus" -ge "$1" ]; then
        LAUNCH+=(--gpus-per-task=1)
    fi
    if [ "$cores" -gt "$1" ]; then
        LAUNCH+=("--cores-per-task=$((cores / $1))")
    fi
    STOP=USR2
    add_words "$FLUX_WORDS"
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
        *Intel* | CRAY*) ;;
        *)
            # MPICH: hydra hands SIGTERM to the ranks, and dies of SIGUSR2. Its ranks die with it.
            LAUNCH+=(-disable-auto-cleanup)
            ;;
    esac
    LAUNCH+=(-n "$2")
    if in_pbs; then
        add_pbs "$1"
    fi
    add_words "$MPIEXEC_WORDS"
}

# On which machines of the PBS job, and with GPUs how many ranks on each.
add_pbs() {
    local gpus=0
    [ -n "$RANKS" ] || gpus=$(count_gpus)
    case $1 in
        Open\ MPI*)
            LAUNCH+=(--hostfile "$PBS_NODEFILE")
            [ "$gpus" = 0 ] || LAUNCH+=(--map-by "ppr:$gpus:node:oversubscribe")
            ;;
        CRAY*) [ "$gpus" = 0 ] || LAUNCH+=(--ppn "$gpus") ;; # its PALS knows the machines
        *)
            LAUNCH+=(-f "$PBS_NODEFILE")
            [ "$gpus" = 0 ] || LAUNCH+=(-ppn "$gpus")
            ;;
    esac
}

print_line() {
    local line
    printf -v line '%q ' "$@"
    printf '%s\n' "+ ${line% }" >&2 || :
}
