"""Flipped bits in a store: what can still be read, and whether that is noticed."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcbench.store.examiner import Examiner

ADDRESSES = ("DIMENSION_LIST", "REFERENCE_LIST")
"""Attributes that hold places in the file, not values."""


@dataclass(frozen=True)
class Seen:
    """What was seen in a file.

    Attributes
    ----------
    values : str
        A digest of all that h5py reads from it, or what came of trying.
    damage : str
        The first damage that hpcbench finds; empty if it finds none.
    """

    values: str
    damage: str


def flip(path: Path, place: int, bit: int) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ (1 << bit)]))


def everything_in(path: str) -> str:
    """A digest of all that h5py reads from a file."""
    sha = hashlib.sha256()

    def look(name: str, item: Any) -> None:
        sha.update(name.encode())
        for key, value in sorted(item.attrs.items()):
            if key not in ADDRESSES:
                sha.update(repr((key, np.asarray(value).tolist())).encode())
        if isinstance(item, h5py.Dataset):
            values = np.asarray(item[()])
            is_text = values.dtype == object
            sha.update(repr(values.tolist()).encode() if is_text else values.tobytes())

    with h5py.File(path) as file:
        look("/", file)
        file.visititems(look)
    return sha.hexdigest()


def _look_in_turn(connection: Any) -> None:
    with contextlib.suppress(EOFError):
        while True:
            path = connection.recv()
            try:
                values = everything_in(path)
            except Exception as error:
                values = f"error: {type(error).__name__}"
            try:
                with Examiner(Path(path), tolerant=True) as reader:
                    damage = next((str(damage) for damage in reader.damage()), "")
            except Exception as error:
                damage = f"{type(error).__name__}: {error}"
            connection.send(Seen(values, damage))


class Elsewhere:
    """Looks at files in a process that may die of them."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._ours, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_look_in_turn, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def look(self, path: Path) -> Seen:
        """Everything in a file, and whether it is damaged."""
        self._ours.send(str(path))
        with contextlib.suppress(EOFError):
            if self._ours.poll(30):
                seen: Seen = self._ours.recv()
                return seen
        self.close()
        self._start()
        return Seen("error: it ended or hung the process", "it ended or hung the process")

    def close(self) -> None:
        """End the process."""
        self._ours.close()
        self._process.kill()
        self._process.join()
