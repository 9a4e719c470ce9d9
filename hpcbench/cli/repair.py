"""The command ``hpcbench repair``."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpcbench.cli.options import add_store
from hpcbench.cli.stores import AGAIN, store_path
from hpcbench.counting import they_are
from hpcbench.texts import one_line, printable

_MOST_NAMED = 20


HELP = "make a store of what is intact in a damaged one"
DESCRIPTION = (
    "Write a new store of the rows that are as they were written; the damaged "
    "one stays beside it as STORE.damaged. Says what is lost: the same hpcbench run computes "
    "that again, and no more. A file whose structure is broken is left as it is. Exit code 1 "
    "if results are lost, 3 if the store cannot be repaired."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_store(parser)
    parser.add_argument(
        "--patience",
        type=float,
        default=120.0,
        metavar="S",
        help="seconds that reading one block may take (default: 120)",
    )


def run(options: argparse.Namespace) -> int:
    """Make a store of the intact rows of a damaged one; return 1 if results are lost."""
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
    print(f"{they_are(lost, 'result')} lost; {AGAIN}")
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
    """Return the names of crystals by id, from the list of the run."""
    from hpcbench.errors import StoreError
    from hpcbench.store.run_folder import RunFolder
    from hpcbench.store.table_reader import TableReader

    try:
        with TableReader(RunFolder(store).crystals) as reader:
            return dict(zip(reader.column("id"), reader.column("name"), strict=True))
    except StoreError:
        return {}
