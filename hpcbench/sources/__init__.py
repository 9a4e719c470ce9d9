"""Reading of crystals: folders, archives and files become records.

    files = find_files(["generated/", "more.zip"])
    crystals, unreadable = merge(record for file in files for record in read_file(file))

Nothing is dropped silently: entries that could not be read are :class:`Unreadable` records with a
reason, and :func:`find_sources` lists other files among the crystals, with their kind.
``hpcbench.curation`` checks whether a crystal can be computed.
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
