"""The process of a rank: its settings, its place, its log, and whether it was asked to stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpcbench.config import RunConfig
from hpcbench.engine.stopping import Stop
from hpcbench.engine.watchdog import Watchdog
from hpcbench.events import EventLog
from hpcbench.store.run_folder import RunFolder


@dataclass(frozen=True, eq=False)
class RankProcess:
    """Hold what everything that a rank does has in common.

    Attributes
    ----------
    config : RunConfig
        Resolved settings.
    result_settings : mapping
        The settings that decide results, written into each segment and the store.
    folder : RunFolder
        Where results go.
    rank, size : int
        This rank, and the number of ranks.
    log : EventLog
        This process's.
    stop : Stop
        Whether the run was asked to stop.
    watchdog : Watchdog
        Told what the potential is called for.
    """

    config: RunConfig
    result_settings: Mapping[str, Any]
    folder: RunFolder
    rank: int
    size: int
    log: EventLog
    stop: Stop
    watchdog: Watchdog = field(default_factory=Watchdog)
