"""Reading crystals: folders, archives and files become records.

    files = find_files(["generated/", "more.zip"])
    crystals, unreadable = merge(record for file in files for record in read_file(file))

Nothing is dropped without a word: what could not be read is an :class:`Unreadable` record with
its reason, and what is no crystal by its name is listed by :func:`ignored_files`. Whether a
crystal can be computed is asked of ``hpcbench.curation``.
"""

from __future__ import annotations

from hpcbench.sources.discovery import find_files, ignored_files
from hpcbench.sources.reading import read_file, read_part
from hpcbench.sources.records import SourceFile, Unreadable, merge

__all__ = [
    "SourceFile",
    "Unreadable",
    "find_files",
    "ignored_files",
    "merge",
    "read_file",
    "read_part",
]
