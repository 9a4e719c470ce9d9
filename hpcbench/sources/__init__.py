"""Reading crystals: folders, archives and files become records.

    files = find_files(["generated/", "more.zip"])
    crystals, unreadable = merge(record for file in files for record in read_file(file))

Nothing is dropped without a word: what could not be read is an :class:`Unreadable` record with
its reason, and what lies among crystals and is none is in :func:`find_sources`, with its kind.
Whether a crystal can be computed is asked of ``hpcbench.curation``.
"""

from __future__ import annotations

from hpcbench.limits import Limits
from hpcbench.sources.discovery import Sources, find_files, find_sources
from hpcbench.sources.reading import read_file, read_part
from hpcbench.sources.records import LeftOut, SourceFile, Unreadable, merge

__all__ = [
    "LeftOut",
    "Limits",
    "SourceFile",
    "Sources",
    "Unreadable",
    "find_files",
    "find_sources",
    "merge",
    "read_file",
    "read_part",
]
