# shellcheck shell=bash
# For launch.sh --stage: the environment in one archive, which ranks unpack on their node's own disk
# (staged.sh). Ten thousand files read by every rank become one, read once by every node.

ARCHIVE= # empty: not staged

# The archive's name says what is in it: another package, or another state of hpcbench, makes another.
plan_archive() {
    local prefix base
    { read -r prefix && read -r base && read -r LIBRARY && read -r PACKAGE; } < <(
        "$PYTHON" -c 'import sys, sysconfig
from importlib.util import find_spec
print(sys.prefix, sys.base_prefix, sysconfig.get_path("purelib"), sep="\n")
print(find_spec("hpcbench").submodule_search_locations[0])'
    ) || die "$WRONG_ENVIRONMENT" "hpcbench cannot be found by $PYTHON"
    if [ "$prefix" = "$base" ] && [ ! -d "$prefix/conda-meta" ]; then
        say "launch.sh: not staged: $PYTHON is not in an environment of its own"
    elif [ ! -w "$prefix" ]; then
        say "launch.sh: not staged: the archive is kept in $prefix, where you cannot write"
    else
        ENVIRONMENT=$prefix
        ARCHIVE=$prefix/.hpcbench-stage-$(
            {
                ls "$prefix/bin" "$prefix/lib" "$LIBRARY"
                find "$PACKAGE" -name __pycache__ -prune -o -type f -printf '%P %s %T@\n' | sort
            } | cksum | tr ' ' -
        ).tar
    fi
}

# Packs what is not packed yet; fails, with a sentence, where it cannot.
pack() {
    local part=$ARCHIVE.$(hostname).$$.part inside=${LIBRARY#"$ENVIRONMENT"/}
    [ ! -e "$ARCHIVE" ] || return 0
    say "launch.sh: packing $ENVIRONMENT for --stage; once, until something in it changes"
    # Those of today may be another job's, which unpacks them or is packing.
    find "$ENVIRONMENT" -maxdepth 1 -name '.hpcbench-stage-*' -mtime +0 -delete
    # Where the job was started modules are looked for last, and first where Python would: an
    # import must not ask a shared file system for each module.
    if echo 'import os, sys; sys.path.append(os.getcwd())' >"$part.pth" &&
        tar -C "$ENVIRONMENT" --exclude='./.hpcbench-*' -cf "$part" . &&
        tar -C "$(dirname "$PACKAGE")" --transform 's,^,package/,' -rf "$part" "$(basename "$PACKAGE")" &&
        tar -C / --transform "s,.*,$inside/hpcbench-staged.pth," -rf "$part" "${part#/}.pth" &&
        mv "$part" "$ARCHIVE"; then
        rm -f "$part.pth"
    else
        rm -f "$part" "$part.pth"
        say "launch.sh: not staged: no archive could be written to $ENVIRONMENT"
        return 1
    fi
}
