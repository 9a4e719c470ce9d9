"""A rank's share of the work, with the other ranks as what they leave on the disk."""

from __future__ import annotations

import math
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from hpcbench.planning import prefetch_limit
from hpcbench.planning.blocks import Block
from hpcbench.scheduler import leases
from hpcbench.scheduler.assigned_work import AssignedWork
from hpcbench.scheduler.heartbeat import Heartbeat
from hpcbench.scheduler.isolated_worker import Fate
from hpcbench.scheduler.journal import Journal, journal_path
from hpcbench.scheduler.leases import Leases
from hpcbench.scheduler.rank_loop import RankLoop

SECONDS_A_CRYSTAL = 0.2


@dataclass
class TwoRanks:
    """Rank 0, and what rank 1 has left when it died with a block under way."""

    launch: Path
    other: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.other = subprocess.Popen(["sleep", "600"])
        self.heartbeat = Heartbeat(self.launch, 0, 2)
        self.heartbeat.enter()
        alive = self.launch / "alive" / "rank-00001"
        alive.write_text(f"{socket.gethostname()} {self.other.pid}\n")
        self.blocks = [Block(rows, 3 * SECONDS_A_CRYSTAL) for rows in ((0, 1, 2), (3, 4, 5))]
        self.journal = Journal(journal_path(self.launch, "rank-00001"))
        self.leases = Leases(self.launch, 1, 2, self.blocks, self.journal)
        self.theirs = self.lease_and_begin()
        journal = Journal(journal_path(self.launch, "rank-00000"))
        self.assigned = AssignedWork(journal)
        process = SimpleNamespace(
            config=SimpleNamespace(lease_minutes=10.0),
            folder=SimpleNamespace(
                launch_folder=lambda name: self.launch, committed_ids=lambda ranks: set()
            ),
            rank=0,
            size=2,
            stop=SimpleNamespace(requested=False, seconds_left=math.inf, pause=time.sleep),
            log=Mock(),
        )
        plan = SimpleNamespace(launch="one", blocks=self.blocks, suspicions={}, measured=False)
        self.loop = RankLoop(
            process,  # type: ignore[arg-type]
            plan,  # type: ignore[arg-type]
            self.heartbeat,
            journal,
            Mock(),
            self.assigned,
            None,
            self.load,
        )

    def load(self, rows: Any) -> Any:
        return [(SimpleNamespace(id=f"crystal-{row}"), SECONDS_A_CRYSTAL) for row in rows]

    def lease_and_begin(self) -> list[str]:
        """Rank 1 takes a block."""
        lease = self.leases.take(lambda block: True)
        assert lease is not None
        begun = [f"crystal-{row}" for row in lease.block.rows]
        self.journal.begin(begun)
        return begun

    def kill(self) -> None:
        self.other.kill()
        self.other.wait()

    def end(self) -> None:
        self.heartbeat.close()
        self.kill()


@pytest.fixture
def two_ranks(tmp_path: Path):  # type: ignore[no-untyped-def]
    ranks = TwoRanks(tmp_path)
    yield ranks
    ranks.end()


def test_suspects_of_a_dead_rank_do_not_keep_a_rank_from_ending_its_list(
    two_ranks: TwoRanks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait until the list is at its end, and are more than a rank may hold by then."""
    # As in a run of hours: what is left to take is looked for each time, and a crystal takes
    # longer than what is never too much.
    monkeypatch.setattr(leases, "LOOK", 0.0)
    monkeypatch.setattr(prefetch_limit, "NEVER_TOO_MUCH", SECONDS_A_CRYSTAL / 10)
    two_ranks.kill()
    computed: list[str] = []

    def compute() -> None:
        for crystals in two_ranks.loop._crystals(threading.Event(), None):
            for crystal in crystals:
                time.sleep(SECONDS_A_CRYSTAL)
                computed.append(crystal.id)
                two_ranks.assigned.finish(crystal.id)
                two_ranks.assigned.commit([crystal.id])

    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for ever"
    assert len(computed) == 3
    assert sorted(two_ranks.loop._suspects) == two_ranks.theirs


def test_a_rank_that_dies_while_one_looks_leaves_its_blocks(
    two_ranks: TwoRanks, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = two_ranks.heartbeat.lost

    def lost_just_before() -> list[int]:
        answer = lost()
        two_ranks.kill()
        return answer

    monkeypatch.setattr(two_ranks.heartbeat, "lost", lost_just_before)
    lease = two_ranks.loop._wait_for_abandoned_blocks()
    assert lease is not None
    assert [f"crystal-{row}" for row in lease.block.rows] == two_ranks.theirs


def test_who_has_suspects_leaves_the_other_blocks_to_others(two_ranks: TwoRanks) -> None:
    """Suspects are computed one after the other: many of them want many ranks."""
    two_ranks.lease_and_begin()
    two_ranks.kill()
    assert list(two_ranks.loop._crystals(threading.Event(), None)) == [[]]
    assert len(two_ranks.loop._suspects) == 3
    # Those are done.
    two_ranks.loop._suspects.clear()
    assert list(two_ranks.loop._crystals(threading.Event(), None)) == [[]]
    assert len(two_ranks.loop._suspects) == 3


def test_an_isolated_worker_stays_for_the_next_block_of_suspects(two_ranks: TwoRanks) -> None:
    """It takes seconds to start, and on a GPU a part of its memory."""
    loop = two_ranks.loop
    loop.isolated_worker = Mock()
    loop.isolated_worker.compute.return_value = Fate.DONE
    two_ranks.lease_and_begin()
    two_ranks.kill()
    for blocks in (1, 2):
        assert list(loop._crystals(threading.Event(), None)) == [[]]
        assert loop._compute_suspects()
        assert loop.isolated_worker.compute.call_count == 3 * blocks
    loop.isolated_worker.close.assert_not_called()


def test_an_isolated_worker_makes_room_for_other_work(two_ranks: TwoRanks) -> None:
    two_ranks.loop.isolated_worker = Mock()
    work = two_ranks.loop._crystals(threading.Event(), None)
    assert [crystal.id for crystal in next(work)] != two_ranks.theirs
    two_ranks.loop.isolated_worker.close.assert_called_once()
