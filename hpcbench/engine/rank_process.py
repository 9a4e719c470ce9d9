"""The process of a rank: settings, folder, log, and whether the run was asked to stop."""

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
    """Objects that all parts of a rank share.

    Attributes
    ----------
    config : RunConfig
        Resolved settings.
    result_settings : mapping
        The settings that results depend on, written into each segment and the store.
    folder : RunFolder
        The folder of results.
    rank, size : int
        This rank, and the number of ranks.
    log : EventLog
        The log of this process.
    stop : Stop
        Tells whether the run was asked to stop.
    watchdog : Watchdog
        Is told for which crystals the potential is called.
    """

    config: RunConfig
    result_settings: Mapping[str, Any]
    folder: RunFolder
    rank: int
    size: int
    log: EventLog
    stop: Stop
    watchdog: Watchdog = field(default_factory=Watchdog)
