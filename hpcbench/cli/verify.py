"""The command ``hpcbench verify``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hpcbench.cli.options import add_store, count
from hpcbench.cli.stores import store_path
from hpcbench.counting import counted
from hpcbench.texts import one_line, shown_reason

# Seconds between two lines of progress.
_PAUSE = 10.0


HELP = "check that a store is what was written"
DESCRIPTION = (
    "Read every value of a store and compare its checksums, in a process of its "
    "own, for damaged files can end or stop the one that reads them; count its rows; compute "
    "the bands of some crystals again from their force constants. Exit code 1 if something "
    "is wrong."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_store(parser)
    parser.add_argument(
        "--sample",
        type=count,
        default=20,
        metavar="N",
        help="crystals whose bands are computed again (default: 20)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=120.0,
        metavar="S",
        help="seconds that reading one block may take (default: 120)",
    )


def run(options: argparse.Namespace) -> int:
    """Check a store; return 1 if something is wrong with it."""
    from hpcbench.maintenance.verify import verify
    from hpcbench.report.wording import earlier_words
    from hpcbench.store.faults import left_alone
    from hpcbench.store.reader import Store

    store = Path(store_path(options.store))
    found = verify(store, options.sample, options.patience, _progress())
    for path, inspection in found.files.items():
        for damage in inspection.damages:
            print(f"{path}: {shown_reason(str(damage))}")
        for deviation in inspection.deviations:
            print(f"{path}: {shown_reason(str(deviation))}")
    for key in found.twice:
        print(f"{store}: {one_line(key)} is in it more than once")
    if found.is_broken(store):
        print(left_alone(store))
    elif found.is_damaged:
        print(f"hpcbench repair {store} makes a store of what is intact")
    elif not found.is_sound:
        print("the values are as they were written, and do not go together: please report this")
    if not found.is_sound:
        return 1
    counts = ", ".join(f"{number} {status}" for status, number in sorted(found.counts.items()))
    segments = len(found.files) - store.exists()
    joined = f" ({counted(segments, 'segment')} not in it yet)" if segments else ""
    others = f", and {found.others} more of the same crystals" if found.others else ""
    print(f"{store}{joined}: {counts or 'no rows'}{others}; every value is as it was written")
    if note := earlier_words(len(Store(store).earlier)):
        print(note)
    computed = sum(inspection.computed for inspection in found.files.values())
    if computed:
        print(
            f"{counted(computed, 'crystal')} computed again: force constants obey the sum rule, "
            f"frequencies follow from them"
        )
    if found.missing > 0:
        have = "has" if found.missing == 1 else "have"
        print(f"{counted(found.missing, 'crystal')} of the list {have} no result yet")
    return 0


def _progress() -> Callable[[Path, int, int], None]:
    last = time.monotonic()

    def tell(path: Path, done: int, rows: int) -> None:
        nonlocal last
        if time.monotonic() - last > _PAUSE:
            last = time.monotonic()
            print(f"{path}: {done} of {rows} rows", file=sys.stderr)

    return tell
