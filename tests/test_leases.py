"""Leases, journals, heartbeats, suspicions: what ranks tell each other by files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpcbench.planning.blocks import Block
from hpcbench.scheduler.assigned_work import AssignedWork
from hpcbench.scheduler.heartbeat import Heartbeat
from hpcbench.scheduler.journal import Journal, journal_path, read_journal
from hpcbench.scheduler.leases import Lease, Leases
from hpcbench.scheduler.suspicious import (
    MOST_DEATHS,
    Suspicion,
    fold_launches,
    suspects_of_rank,
)


def anything(block: Block) -> bool:
    return True


def leases(folder: Path, rank: int, size: int, blocks: list[Block]) -> tuple[Leases, Journal]:
    journal = Journal(journal_path(folder, f"rank-{rank:05d}"))
    return Leases(folder, rank, size, blocks, journal), journal


def taken(mine: Leases, fits: Callable[[Block], bool] = anything) -> list[Lease]:
    return list(iter(lambda: mine.take(fits), None))


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_block_is_leased_once_however_many_ask(tmp_path: Path, size: int) -> None:
    blocks = [Block((number,)) for number in range(200)]
    ranks = [leases(tmp_path, rank, size, blocks)[0] for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        parts = list(pool.map(taken, ranks))
    numbers = [lease.number for part in parts for lease in part]
    assert sorted(numbers) == list(range(200))
    assert {lease.block.rows for part in parts for lease in part} == {b.rows for b in blocks}


def test_most_leases_succeed_at_the_first_try_and_without_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [Block((number,)) for number in range(64)]
    ranks = [leases(tmp_path, rank, 8, blocks)[0] for rank in range(8)]
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda path: pytest.fail("listed a folder"))
        for turn in range(8):
            for rank, mine in enumerate(ranks):
                lease = mine.take(anything)
                # Longest first, dealt out like cards.
                assert lease is not None and lease.number == 8 * turn + rank
    assert [mine.take(anything) for mine in ranks] == [None] * 8


def test_who_has_finished_takes_what_others_have_left_and_the_largest_first(
    tmp_path: Path,
) -> None:
    blocks = [Block((number,), seconds=100.0 - number) for number in range(40)]
    quick, _ = leases(tmp_path, 0, 2, blocks)
    slow, _ = leases(tmp_path, 1, 2, blocks)
    slow.take(anything)
    order = [lease.number for lease in taken(quick)]
    assert order[:20] == list(range(0, 40, 2))
    assert sorted(order[20:]) == list(range(3, 40, 2))
    assert max(order[20:23]) < 22  # among the first that are left, not at the end
    assert slow.take(anything) is None


def test_only_what_fits_is_taken_and_suspects_only_when_asked_for(tmp_path: Path) -> None:
    blocks = [Block((0,), 50.0), Block((1,), 5.0), Block((2,), 1.0, suspect=True)]
    mine, _ = leases(tmp_path, 0, 1, blocks)
    assert [lease.number for lease in taken(mine, lambda block: block.seconds < 10)] == [1]
    assert [lease.number for lease in taken(mine)] == [0]
    lease = mine.take(anything, suspect=True)
    assert lease is not None and lease.number == 2


def test_blocks_of_the_dead_get_one_next_holder(tmp_path: Path) -> None:
    blocks = [Block((number,)) for number in range(6)]
    dead, journal = leases(tmp_path, 0, 3, blocks)
    for _ in range(2):
        dead.take(anything)
    journal.done([0])
    # It died between the line in its journal and the lease.
    journal.take(5, 0)
    told = read_journal(journal.path)
    heirs = [leases(tmp_path, rank, 3, blocks)[0] for rank in (1, 2)]
    assert list(heirs[0].held_by(0, told)) == [(3, 1)]
    got = [heir.take_over(3, 1) for heir in heirs]
    assert got[0] == Lease(3, blocks[3], 1)
    assert got[1] is None
    assert heirs[0].holders(got[0]) == [0]
    # The heir dies as well.
    told = read_journal(journal_path(tmp_path, "rank-00001"))
    assert list(heirs[1].held_by(1, told)) == [(3, 2)]
    lease = heirs[1].take_over(3, 2)
    assert lease is not None and heirs[1].holders(lease) == [0, 1]


def test_a_journal_is_read_up_to_a_torn_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.take(3, 0)
    journal.begin(["a", "b", "c"])
    journal.begin(["d"], alone=True)
    journal.died("d")
    journal.done([3])
    with journal.path.open("a") as stream:
        stream.write("begin e f")
    told = read_journal(journal.path)
    assert told.taken == [(3, 0)]
    assert told.begun == {"a": False, "b": False, "c": False, "d": True}
    assert (told.done, told.died, told.in_order) == ({3}, ["d"], False)
    assert read_journal(tmp_path / "none").begun == {}


@pytest.mark.parametrize("last", ["stop", "end"])
def test_who_was_asked_to_stop_makes_no_suspects(tmp_path: Path, last: str) -> None:
    journal = Journal(journal_path(tmp_path, "rank-00000"))
    journal.begin(["a", "b", "c"])
    assert suspects_of_rank(tmp_path, 0, {"b"}) == {"a": Suspicion(), "c": Suspicion()}
    getattr(journal, last)()
    assert suspects_of_rank(tmp_path, 0, {"b"}) == {}


def launch_folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / "launches" / name
    folder.mkdir(parents=True)
    return folder


def test_deaths_are_counted_over_launches_and_forgiven(tmp_path: Path) -> None:
    file = tmp_path / "attempts.json"
    first = launch_folder(tmp_path, "1")
    Journal(journal_path(first, "rank-00000")).begin(["a", "b", "c"])
    assert fold_launches([first], file, {"b"}) == {"a": Suspicion(), "c": Suspicion()}
    assert not first.exists()
    for number in range(1, MOST_DEATHS + 1):
        launch = launch_folder(tmp_path, f"2{number}")
        rank = Journal(journal_path(launch, "rank-00000"))
        Journal(journal_path(launch, "rank-00000.isolated-host-1")).begin(["a"], alone=True)
        rank.died("a")
        rank.end()
        told = fold_launches([launch], file, {"b", "c"})
        assert told == {"a": Suspicion(number)}
    # Nobody has seen how this isolated worker ended: it may have been killed with its rank.
    launch = launch_folder(tmp_path, "3")
    Journal(journal_path(launch, "rank-00000.isolated-host-1")).begin(["a"], alone=True)
    assert fold_launches([launch], file, {"b", "c"}) == {"a": Suspicion(MOST_DEATHS)}
    assert fold_launches([], file, {"b", "c"}, forgiven={"a"}) == {"a": Suspicion(0)}
    assert fold_launches([], file, {"a", "b", "c"}) == {}


def test_a_launch_is_not_counted_twice_after_a_kill_in_between(tmp_path: Path) -> None:
    file = tmp_path / "attempts.json"
    launch = launch_folder(tmp_path, "1")
    Journal(journal_path(launch, "rank-00000")).died("a")
    text = [path.read_bytes() for path in (launch / "journal").iterdir()]
    assert fold_launches([launch], file, ())["a"].deaths == 1
    # Killed before the folder was removed.
    folder = launch_folder(tmp_path, "1") / "journal"
    folder.mkdir()
    (folder / "rank-00000").write_bytes(text[0])
    assert fold_launches([folder.parent], file, ())["a"].deaths == 1
    assert not folder.exists()


def test_holdings_learn_the_pace_and_say_when_a_block_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    journal = Journal(tmp_path / "journal")
    assigned = AssignedWork(journal)
    assigned.add(7, dict.fromkeys("abcd", 10.0))
    assert assigned.seconds_left() == 40.0
    # Three times as slow as predicted.
    clock[0] += 60.0
    assigned.finish("a")
    assigned.finish("b")
    assert assigned.seconds_left() == pytest.approx(20.0 * 60 / 30)
    clock[0] += 60.0
    assigned.finish("c")
    assigned.finish("d")
    assert assigned.seconds_left(10.0) == pytest.approx(30.0)
    # Without work there is no pace.
    clock[0] += 1000.0
    assigned.add(8, {"e": 10.0})
    assert assigned.seconds_left() == pytest.approx(10.0 * 120 / 45)
    assigned.commit(["a", "b", "c"])
    assert read_journal(journal.path).done == set()
    assigned.commit(["d", "e"])
    assert read_journal(journal.path).done == {7, 8}
    # Another rank had finished all of it.
    assigned.add(9, {})
    assert read_journal(journal.path).done == {7, 8, 9}


def test_ranks_leave_together_and_one_has_the_last_word(tmp_path: Path) -> None:
    left: list[int] = []

    def work(rank: int) -> bool:
        heartbeat = Heartbeat(tmp_path, rank, 4)
        heartbeat.enter()
        time.sleep(0.3 * rank)
        heartbeat.rest()
        last = heartbeat.end()
        if last:
            assert left == []
            heartbeat.close()
        left.append(rank)
        return last

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 1
    assert Heartbeat(tmp_path, 0, 4).complete()


def test_nobody_waits_for_the_dead(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path, 0, 3, silence=1.0)
    heartbeat.enter()
    # Entered on another host, and then never again; rank 2 never even entered.
    Heartbeat(tmp_path, 1, 3)._file(1).write_text("elsewhere 1\n")
    start = time.monotonic()
    heartbeat.rest()
    assert heartbeat.end()
    assert 0.9 < time.monotonic() - start < 5
    assert not heartbeat.complete()


def test_a_dead_process_of_this_host_is_known_at_once(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path, 0, 2)
    heartbeat.enter()
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    Heartbeat(tmp_path, 1, 2)._file(1).write_text(f"{socket.gethostname()} {process.pid}\n")
    start = time.monotonic()
    heartbeat.rest()
    assert heartbeat.end()
    assert time.monotonic() - start < 5


def test_who_dies_while_it_waits_is_not_waited_for_in_leaving(tmp_path: Path) -> None:
    """MPI_Finalize would never return."""
    ranks = [Heartbeat(tmp_path, rank, 2) for rank in range(2)]
    for rank in ranks:
        rank.enter()
        rank.rest()
    assert ranks[0].complete()
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    ranks[1]._file(1).write_text(f"{socket.gethostname()} {process.pid}\n")
    assert not ranks[0].complete()


def test_who_has_the_last_word_and_dies_is_replaced(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    dead, alive = Heartbeat(tmp_path, 0, 2), Heartbeat(tmp_path, 1, 2)
    dead.enter()
    dead._file(0).write_text(f"{socket.gethostname()} {process.pid}\n")
    dead.rest()
    (tmp_path / "ended" / "last.0").symlink_to("0")
    alive.enter()
    alive.rest()
    assert alive.end()
    alive.close()
    # It was only stopped, and comes back.
    assert not dead.end()


def test_nobody_waits_in_a_collective_call_for_one_that_died(tmp_path: Path) -> None:
    script = (
        "import os, socket, subprocess, sys, time\n"
        "from hpcbench.scheduler.startup_watchdog import StartupWatchdog\n"
        "from hpcbench.scheduler.world import SingleProcess\n"
        "class World(SingleProcess):\n"
        "    size = 2\n"
        "    def share(self, value): return [value, (socket.gethostname(), other.pid)]\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(2)'])\n"
        "startup = StartupWatchdog(World())\n"
        "time.sleep(1)\n"
        "print('both live', flush=True)\n"
        "if len(sys.argv) > 1: startup.end()\n"
        "time.sleep(6)\n"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout) == (3, "both live\n"), result.stderr
    assert f"others have died (rank 1 on {socket.gethostname()})" in result.stderr
    # Of a rank on another host nothing is known before all have entered the launch's folder.
    far = script.replace("socket.gethostname(), other", "'far', other")
    far = "import hpcbench.scheduler.startup_watchdog as b; b.LONGEST_START = 3.0\n" + far
    result = subprocess.run([sys.executable, "-c", far], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (3, "both live\n"), result.stderr
    assert "not all were there" in result.stderr
    result = subprocess.run([*command, "over"], capture_output=True, check=False, timeout=60)
    assert result.returncode == 0


def test_who_gives_up_leaves_his_blocks_to_others(tmp_path: Path) -> None:
    ranks = [Heartbeat(tmp_path, rank, 2) for rank in range(2)]
    for rank in ranks:
        rank.enter()
    assert ranks[1].lost() == []
    ranks[0].give_up()
    assert ranks[1].lost() == [0]
    ranks[0].rest()
    assert ranks[1].working() == [1]
    ranks[1].rest()
    assert ranks[1].working() == []
    ranks[1].resume()
    assert ranks[0].working() == [1]


def test_a_journal_for_which_there_was_no_room_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal")
    write, full = os.write, True

    def no_room(file: int, data: bytes) -> int:
        return write(file, data[:3] if full else data)

    monkeypatch.setattr(os, "write", no_room)
    with pytest.raises(OSError, match="no room"):
        journal.begin(["a"])
    journal.stop()
    assert not read_journal(journal.path).in_order
    full = False
    journal.stop()
    told = read_journal(journal.path)
    # What could not be written did not begin, and the request to stop is not lost.
    assert told.in_order
    assert not told.begun
    journal.close()
    journal.stop()
    with pytest.raises(OSError, match="closed"):
        journal.take(0, 0)


def test_a_lease_whose_making_is_answered_with_its_own_link_is_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS: the answer was lost, and the request came again."""
    symlink_to = Path.symlink_to

    def made_twice(path: Path, target: str) -> None:
        symlink_to(path, target)
        symlink_to(path, target)

    mine, _ = leases(tmp_path, 0, 2, [Block((0,)), Block((1,))])
    others, _ = leases(tmp_path, 1, 2, [Block((0,)), Block((1,))])
    first = others.take(anything)
    monkeypatch.setattr(Path, "symlink_to", made_twice)
    second = mine.take(anything)
    assert first is not None
    assert second is not None
    assert {first.number, second.number} == {0, 1}
    assert mine.take(anything) is None
    heartbeat = Heartbeat(tmp_path, 0, 1)
    heartbeat.enter()
    heartbeat.rest()
    assert heartbeat.end()
    heartbeat.close()
