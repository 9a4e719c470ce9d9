"""Journals: each process of a launch writes down what it takes and begins, before it starts.

One file for each process, with lines::

    read gen/a.cif              this file is about to be read (escaped as in a URL); "-": none
    read-alone gen/a.cif        ... in a separate process
    take 17 0                   block 17 is about to be leased, with this process as holder 0
    begin 1f3a... 9c0d...       work on these crystals begins
    alone 1f3a...               ... on this one, with nothing beside it
    done 17                     all results of block 17 are committed
    died 1f3a...                this crystal has ended the isolated worker that computed it alone
    stop                        the process was asked to stop: its death would mean nothing
    end                         the process has ended normally

After a death the other ranks read from it what is left to do, and which crystals may be the cause.
It survives any death of the process. If a machine goes down the last lines may be lost, and then no
crystal is suspected because of them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes


class Journal:
    """The journal of this process, for writing.

    Raises
    ------
    OSError
        From ``__init__``, :meth:`read`, :meth:`take` and :meth:`begin`, if it cannot be written:
        work that is not written down must not start.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._stopped = False
        self._torn = False
        # Another thread may call stop() at any time.
        self._lock = threading.Lock()
        self._file: int | None = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def read(self, path: str, *, alone: bool = False) -> None:
        """Note that a file is about to be read; an empty path means that all have been.

        Parameters
        ----------
        path : str
            The file.
        alone : bool
            Whether it is read in a separate process.
        """
        name = quote(os.fsencode(path)) if path else "-"
        self._write("read-alone" if alone else "read", name)

    def read_well(self, path: str) -> None:
        """Note that a file was read in a separate process, which has survived."""
        with contextlib.suppress(OSError):
            self._write("read-well", quote(os.fsencode(path)))

    def take(self, block: int, holder: int) -> None:
        """Note that a block is about to be leased.

        Parameters
        ----------
        block : int
            Number of the block.
        holder : int
            Number of ranks that had it before.
        """
        self._write("take", str(block), str(holder))

    def begin(self, ids: Sequence[str], *, alone: bool = False) -> None:
        """Note that work on crystals begins.

        Parameters
        ----------
        ids : sequence of str
            The crystals.
        alone : bool
            Whether one is computed with nothing beside it.
        """
        self._write("alone" if alone else "begin", *ids)

    def done(self, blocks: Iterable[int]) -> None:
        """Note that all results of these blocks are committed."""
        with contextlib.suppress(OSError):
            self._write("done", *map(str, blocks))

    def died(self, crystal: str) -> None:
        """Note that a crystal has ended the isolated worker that computed it alone."""
        self._write("died", crystal)

    def hung(self, crystals: Iterable[str]) -> None:
        """Note that the potential did not return from these crystals, which ends the process."""
        with contextlib.suppress(OSError):
            self._write("hung", *crystals)

    def stop(self) -> None:
        """Note once that the process was asked to stop; tried again if there was no room."""
        if not self._stopped:
            with contextlib.suppress(OSError):
                self._write("stop")
                self._stopped = True

    def end(self) -> None:
        """Note that the process ends normally."""
        with contextlib.suppress(OSError):
            self._write("end")
        self.close()

    def close(self) -> None:
        """Close the file, if it is open."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _write(self, *words: str) -> None:
        with self._lock:
            if self._file is None:
                raise OSError(f"{self.path}: closed")
            # A line that was only partly written must not spoil the next one.
            line = ("\n" * self._torn + " ".join(words) + "\n").encode()
            written = os.write(self._file, line)
            self._torn = written != len(line)
            if self._torn:
                raise OSError(f"{self.path}: no room for a line")


@dataclass
class Told:
    """The contents of a journal.

    Attributes
    ----------
    taken : list of (int, int)
        Blocks, and the number of the holder; the lease itself may have failed.
    begun : dict
        Ids of the crystals on which work began, in order; the value is true if alone.
    done : set of int
        Blocks that are committed.
    died : list of str
        Crystals that have ended an isolated worker, once for each time.
    reading : str
        The file that was read last, if it was not read to the end.
    alone : bool
        Whether it was read in a separate process.
    read_well : list of str
        Files that were read in a separate process, which has survived.
    hung : list of str
        Crystals from which the potential did not return.
    in_order : bool
        Whether the process ended normally, or was asked to stop.
    """

    taken: list[tuple[int, int]] = field(default_factory=list)
    begun: dict[str, bool] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    died: list[str] = field(default_factory=list)
    reading: str = ""
    alone: bool = False
    read_well: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    in_order: bool = False


def read_journal(path: Path) -> Told:
    """Read a journal, without lines that are torn by a death or unknown."""
    told = Told()
    try:
        text = path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return told
    for line in text.split("\n")[:-1]:
        match line.split(" "):
            case ["read" | "read-alone" as word, name]:
                told.reading = "" if name == "-" else os.fsdecode(unquote_to_bytes(name))
                told.alone = word == "read-alone"
            case ["read-well", name]:
                told.read_well.append(os.fsdecode(unquote_to_bytes(name)))
            case ["take", block, holder] if block.isdigit() and holder.isdigit():
                told.taken.append((int(block), int(holder)))
            case ["begin" | "alone" as word, *ids]:
                for key in ids:
                    told.begun.pop(key, None)
                    told.begun[key] = word == "alone"
            case ["done", *blocks]:
                told.done |= {int(block) for block in blocks if block.isdigit()}
            case ["died", key]:
                told.died.append(key)
            case ["hung", *ids]:
                told.hung += ids
            case ["stop"] | ["end"]:
                told.in_order = True
    return told


def journal_path(launch: Path, process: str) -> Path:
    """Return the path of a process's journal.

    Parameters
    ----------
    launch : Path
        The launch's folder.
    process : str
        ``rank-00003``, or the name of that rank's isolated worker.
    """
    return launch / "journal" / process
