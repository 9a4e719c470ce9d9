"""Do harm with accidents that are no bad files: each kind is a function that acts in a place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from harm_judge import GOOD, Tally, write_good
from harm_place import Ended, Limits, Place, faults_of


@dataclass
class Case:
    """Hold one kind under way: its place, and what is found."""

    place: Place
    tally: Tally

    def fault(self, kind: str, text: str) -> None:
        """Note a fault.

        Parameters
        ----------
        kind : str
            Class of the fault.
        text : str
            What went wrong.
        """
        self.tally.faults.append(f"{kind}: {text}")

    def check(self, ended: Ended, codes: Iterable[int] = (0, 1, 2, 3)) -> Ended:
        """Note what no command may do.

        Parameters
        ----------
        ended : Ended
            The command.
        codes : iterable of int
            Exit codes that are right.
        """
        self.tally.faults += faults_of(ended, codes, self.place.limits)
        self.tally.seconds += ended.seconds
        self.tally.peak = max(self.tally.peak, ended.peak)
        return ended

    def refused(self, ended: Ended, codes: Iterable[int] = (2, 3), *words: str) -> None:
        """Count a try that must end with a refusal, a sentence, and one of these words.

        Parameters
        ----------
        ended : Ended
            The command.
        codes : iterable of int
            Exit codes that are right.
        *words : str
            What it may name; one is enough.
        """
        before = len(self.tally.faults)
        self.tally.tried += 1
        self.check(ended, codes)
        if words and not any(word.lower() in ended.text.lower() for word in words):
            self.fault("silent", f"{ended.command} says nothing of {' or '.join(words)}")
        if len(self.tally.faults) == before:
            self.tally.told += 1

    def whole(self, ended: Ended, store: str, *, told: bool = False) -> None:
        """Count a try that must end with all good crystals in the store.

        Parameters
        ----------
        ended : Ended
            The command.
        store : str
            Path of the store, from the working folder.
        told : bool
            Whether a reason is given, so that it counts as told.
        """
        before = len(self.tally.faults)
        self.tally.tried += 1
        self.check(ended, (0,))
        self.has_good(store)
        if len(self.tally.faults) == before:
            self.tally.told += told
            self.tally.right += not told

    def has_good(self, store: str) -> None:
        """Note good crystals that have no verdict in a store."""
        rows = self.place.rows(store)
        done = {row["formula"] for row in rows if row["status"] == "done" and row["verdict"]}
        if lost := [formula for formula, _ in GOOD.values() if formula not in done]:
            self.fault("lost", f"{store} has no verdict of {', '.join(lost)}")

    def unchanged(self) -> None:
        """Note what has changed of what the place watches."""
        for path in self.place.changes():
            self.fault("changed", path.replace(str(self.place.folder), ""))


@dataclass(frozen=True)
class CaseKind:
    """Describe a kind of accidents.

    Attributes
    ----------
    area, name : str
        Of the table.
    do : callable
        Does the harm and judges it.
    needs : callable
        Why it cannot be tried here, or an empty text.
    """

    area: str
    name: str
    do: Callable[[Case], None]
    needs: Callable[[], str] = str

    def tally(self, folder: Path, limits: Limits) -> Tally:
        """Do the harm in a new folder.

        Parameters
        ----------
        folder : Path
            The folder.
        limits : Limits
            Of each command.
        """
        tally = Tally(self.area, self.name, skipped=self.needs())
        if not tally.skipped:
            place = Place(folder, limits)
            write_good(place.work / "good")
            self.do(Case(place, tally))
            tally.faults = list(dict.fromkeys(tally.faults))
        return tally


def cases(area: str, table: dict[str, Callable[[Case], None]]) -> list[CaseKind]:
    """Make kinds of a table of them.

    Parameters
    ----------
    area : str
        The area of all of them.
    table : dict
        By name, what does the harm and judges it.
    """
    return [CaseKind(area, name, do) for name, do in table.items()]
