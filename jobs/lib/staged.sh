#!/usr/bin/env bash
# One rank of `./launch.sh --stage run`, with a copy of its environment and of its weights on the
# node's own disk:
#
#   staged.sh ARCHIVE WEIGHTS PYTHON ARGUMENT...
#
# The first rank of a node unpacks the archive, the others wait for it. Where that cannot be, the
# rank starts as it would have without. The copy stays for the next job on this node; one that
# nobody uses is removed when another is made. WEIGHTS is a file, or empty: there are none but
# those in the environment.
set -uo pipefail

archive=$1
weights=$2
python=$3
shift 3

# One rank of a node says it for all.
tell() {
    local rank=${SLURM_LOCALID:-${MPI_LOCALRANKID:-${OMPI_COMM_WORLD_LOCAL_RANK:-${FLUX_TASK_LOCAL_ID:-${PALS_LOCAL_RANKID:-0}}}}}
    [ "$rank" != 0 ] || echo "launch.sh: $(hostname): $1" >&2
}
as_ever() {
    tell "not staged: $1"
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

free_megabytes() { df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1024) }'; }

make_copy() {
    local other needed free
    for other in "$folder"/*.used; do
        # A lock that can be had is nobody's.
        flock --nonblock "$other" rm -rf "${other%.used}" "$other"
    done
    rm -rf "$folder"/*.part
    needed=$(($(stat -c %s "$archive") * 11 / 10 / 1048576 + 1)) || return
    free=$(free_megabytes)
    if [ "$free" -lt "$needed" ]; then
        as_ever "$place has $free MB left, and the environment takes $needed"
    fi
    mkdir "$copy.part" && tar -xf "$archive" -C "$copy.part" && mv "$copy.part" "$copy" && return
    rm -rf "$copy.part"
    return 1
}

# Below the copy of the environment, so that both are removed together.
copy_weights() {
    local target=$copy/weights$weights original
    original=$(stat -c '%s %Y' "$weights") || return
    [ "$(stat -c '%s %Y' "$target")" != "$original" ] || return 0
    [ "$(free_megabytes)" -gt $((${original% *} / 1048576)) ] || return
    # Under another name first: a rank of another job may be reading the older one.
    mkdir -p "${target%/*}" && cp --preserve=timestamps "$weights" "$target.part" && mv "$target.part" "$target" && return
    rm -f "$target.part"
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
if [ -n "$weights" ]; then
    if copy_weights 2>/dev/null; then
        export HPCBENCH_STAGED_WEIGHTS=$copy/weights
    else
        tell "$weights is not staged: it could not be copied to $place"
    fi
fi
exec {making}>&-

# Modules come from the copy, the package first of all. See stage.sh for the working folder.
export PYTHONSAFEPATH=1 PYTHONPATH="$copy/package${PYTHONPATH:+:$PYTHONPATH}"
exec "$copy/bin/${python##*/}" "${arguments[@]}"
