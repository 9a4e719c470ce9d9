#!/usr/bin/env bash
# One rank of `./launch.sh --stage run`, with a copy of its environment on the node's own disk:
#
#   staged.sh ARCHIVE PYTHON ARGUMENT...
#
# The first rank of a node unpacks the archive, the others wait for it. Where that cannot be, the
# rank starts as it would have without. The copy stays for the next job on this node; one that
# nobody uses is removed when another is made.
set -uo pipefail

archive=$1
python=$2
shift 2

# One rank of a node says it for all.
as_ever() {
    local rank=${SLURM_LOCALID:-${MPI_LOCALRANKID:-${OMPI_COMM_WORLD_LOCAL_RANK:-${FLUX_TASK_LOCAL_ID:-${PALS_LOCAL_RANKID:-0}}}}}
    [ "$rank" != 0 ] || echo "launch.sh: $(hostname): not staged: $1" >&2
    [ -z "$making" ] || exec {making}>&- # others wait for it
    exec "$python" "${arguments[@]}"
}
arguments=("$@")
making=

for place in "${SLURM_TMPDIR:-}" "${TMPDIR:-}" /tmp none; do
    # A shared file system is no place, and by name there are more of those than of the others.
    case $([ ! -w "$place" ] || stat -f -c %T "$place" 2>/dev/null) in
        ext* | xfs | btrfs | zfs | f2fs | overlayfs | tmpfs) break ;;
    esac
done
[ "$place" != none ] || as_ever "no disk of the node's own at \$SLURM_TMPDIR, \$TMPDIR or /tmp"

folder=$place/hpcbench-$(id -u)
mkdir -m 700 "$folder" 2>/dev/null
# In /tmp somebody else could have made it, to have us run his files.
[ -d "$folder" ] && [ ! -L "$folder" ] && [ -O "$folder" ] || as_ever "$folder is not ours"
copy=$(basename "$archive" .tar)
copy=$folder/${copy#.}

make_copy() {
    local other needed free
    for other in "$folder"/*.used; do
        # A lock that can be had is nobody's.
        flock --nonblock "$other" rm -rf "${other%.used}" "$other"
    done
    rm -rf "$folder"/*.part
    needed=$(($(stat -c %s "$archive") * 11 / 10 / 1024)) || return
    free=$(df -Pk "$folder" | awk 'NR == 2 { print $4 }')
    if [ "$free" -lt "$needed" ]; then
        as_ever "$place has $((free / 1024)) MB left, and the environment takes $((needed / 1024))"
    fi
    mkdir "$copy.part" && tar -xf "$archive" -C "$copy.part" && mv "$copy.part" "$copy" && return
    rm -rf "$copy.part"
    return 1
}

# Numbers of bash's choice: mpiexec has opened some that a rank needs.
exec {making}>"$folder/making"
flock --wait 900 "$making" || as_ever "another rank does not come to an end with the copy"
[ -d "$copy" ] || make_copy || as_ever "$archive could not be unpacked in $place"
[ -x "$copy/bin/${python##*/}" ] || as_ever "the copy in $copy has no ${python##*/}"
# Held as long as this rank lives, so that nobody removes the copy.
exec {used}>"$copy.used"
flock --shared "$used"
exec {making}>&-

# Modules come from the copy, the package first of all. See stage.sh for the working folder.
export PYTHONSAFEPATH=1 PYTHONPATH="$copy/package${PYTHONPATH:+:$PYTHONPATH}"
exec "$copy/bin/${python##*/}" "${arguments[@]}"
