"""``hpcbench verify`` and ``hpcbench repair``: is a store what was written."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hpcbench.cli.look import store_path
from hpcbench.counting import counted, they_are
from hpcbench.texts import one_line, printable, shown_reason

# Seconds between two lines about how far it has come.
_PAUSE = 10.0
_MOST_NAMED = 20
_AGAIN = "the same hpcbench run computes what is missing"


def verify_command(options: argparse.Namespace) -> int:
    """Check a store; 1 if something is wrong with it."""
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


def repair_command(options: argparse.Namespace) -> int:
    """Make a store of what is intact; 1 if results are lost."""
    from hpcbench.maintenance.repair import repair

    store = Path(store_path(options.store))
    result = repair(store, options.patience)
    for sentence in result.sentences:
        print(printable(sentence))
    if not result.damaged:
        print(f"{store}: nothing to repair")
        return 1 if result.sentences else 0
    print(f"{store}: {they_are(result.kept, 'row')} intact; the damaged store is {result.damaged}")
    if result.computed_again:
        print(f"spectra and verdicts of {result.computed_again} of them were computed again")
    for field, rows in sorted(result.emptied.items()):
        print(f"{one_line(field)} is lost in {rows} of them")
    lost = len(result.lost_ids) + result.lost_unnamed
    if not lost:
        return 0
    print(f"{they_are(lost, 'result')} lost; {_AGAIN}")
    names = _names(store)
    for key in result.lost_ids[:_MOST_NAMED]:
        line = one_line(f"{key} {names.get(key, '')}")
        print(f"  {line}")
    if more := len(result.lost_ids[_MOST_NAMED:]):
        print(f"  and {more} more, which hpcbench status {store} counts as to be computed")
    if result.lost_unnamed:
        print(f"  {result.lost_unnamed} whose ids cannot be read")
    return 1


def _names(store: Path) -> dict[str, str]:
    """Names for people, by id, from the list of the run."""
    from hpcbench.errors import StoreError
    from hpcbench.store.run_folder import RunFolder
    from hpcbench.store.table_reader import TableReader

    try:
        with TableReader(RunFolder(store).crystals) as reader:
            return dict(zip(reader.column("id"), reader.column("name"), strict=True))
    except StoreError:
        return {}
