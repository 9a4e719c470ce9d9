"""The command ``hpcbench import``."""

from __future__ import annotations

import argparse
import sys
import time

from hpcbench.cli.options import add_settings
from hpcbench.counting import counted, they_are
from hpcbench.settings_hash import IMPORTED
from hpcbench.texts import one_line, shown_reason
from hpcbench.threads import cap_threads

# Seconds between two lines of progress.
_INTERVAL = 10.0
# Most crystals that a line names.
_NAMED = 10


HELP = "phonons that others computed, as a store"
DESCRIPTION = """\
Make a store of phonons that others computed: the folders that PhononBench's scripts write
(YAML with force constants, relaxed CIF, Lable.txt), and phonopy's YAML files, compressed or
not, with force constants or forces in them or beside them (force_constants.hdf5,
FORCE_CONSTANTS, FORCE_SETS). Spectra, verdicts and thermal properties are computed as in a run.

Where there are PhononBench's labels, the protocol is phononbench if none is given, and the
labels are compared with the verdicts. A folder that `hpcbench export` wrote brings its settings
along. Born charges and dielectric tensors, in the files or in BORN beside them, are applied
(non-analytic correction by Gonze and Lee); a second row, ID:without-nac, is without them.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folders, files, patterns")
    add_settings(parser, only=("out", *IMPORTED))


def run(options: argparse.Namespace) -> int:
    """Make a store of phonons that others computed; return 1 if some crystals failed."""
    cap_threads()
    from hpcbench.interop.finding import find
    from hpcbench.interop.importing import import_config, import_found

    found = find(options.sources)
    flags = {name: getattr(options, name, None) for name in ("out", *IMPORTED)}
    config = import_config(found, flags, options.config)
    labels = f", {counted(len(found.label_files), 'label file')}" if found.label_files else ""
    print(f"{counted(len(found.jobs), 'crystal')}{labels}; protocol {config.protocol}", flush=True)
    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > _INTERVAL:
            told = time.monotonic()
            print(f"{done} of {total}", file=sys.stderr, flush=True)

    result = import_found(found, config, tell)
    print(f"{config.out}: {result.done} of {counted(result.total, 'crystal')} with phonons")
    for kind, number in sorted(result.reasons.items()):
        print(f"  {number:6d}  {shown_reason(kind)}")
    if result.repeated:
        first = one_line(", ".join(result.repeated[:_NAMED]))
        more = ", ..." if len(result.repeated) > _NAMED else ""
        print(
            f"{counted(len(result.repeated), 'crystal')} given more than once in the same "
            f"supercell, the first one counts: left out {first}{more}"
        )
    if result.inputs:
        print(
            f"{counted(result.inputs, 'file')} without phonons left out: other files of the same "
            f"name have them"
        )
    if result.with_nac:
        print(f"Born charges of {they_are(result.with_nac, 'crystal')} applied")
    if result.changed:
        first = one_line(", ".join(result.changed[:_NAMED]))
        more = ", ..." if len(result.changed) > _NAMED else ""
        print(f"  they change the verdict of {first}{more}")
    compared = result.agree + result.differ
    if compared:
        print(f"{result.agree} of {compared} labels agree with the verdicts by phononbench")
    if result.different:
        print(f"  they differ for {one_line(', '.join(result.different))}")
    if result.without_phonons:
        print(f"{result.without_phonons} labels are of crystals without phonons")
    return 1 if result.reasons else 0
