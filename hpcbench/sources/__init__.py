"""Reading crystals: folders, archives and files become records.

    files = find_files(["generated/", "more.zip"])
    crystals, unreadable = merge(record for file in files for record in read_file(file))
    for crystal in crystals:
        examine(crystal)

Nothing is dropped without a word: what could not be read is an :class:`Unreadable` record with
its reason, what is no crystal by its name is listed by :func:`ignored_files`, and
:func:`examine` says why a crystal cannot be computed.
"""

from __future__ import annotations

from hpcbench.sources.curation import examine
from hpcbench.sources.discovery import find_files, ignored_files
from hpcbench.sources.reading import read_file
from hpcbench.sources.records import SourceFile, Unreadable, merge

__all__ = [
    "SourceFile",
    "Unreadable",
    "examine",
    "find_files",
    "ignored_files",
    "merge",
    "read_file",
]
