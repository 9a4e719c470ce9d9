"""Measure how ranks share the work with a few, and simulate up to 1,024.

    python benchmarks/scaling.py measure [--ranks 1 2 4]
    python benchmarks/scaling.py simulate
    python benchmarks/scaling.py works --crystals generated.extxyz --steps steps.json

measure   runs hpcbench under mpiexec on copies of the demo's crystals, with a process for each
          rank and nothing beside it, and compares the times from the first rank that is ready to
          the last one that has no work. More ranks than cores share them: those lines show what
          the scheduler costs, not how it scales
simulate  plays a run with the program's own blocks (``make_blocks``) and its rules: dealt out
          like cards, then taken from what others have left; a rank has many crystals under way and
          one block ahead; what a dead rank had begun is computed again by those who run out of
          work, once it has been silent for long enough. Crystals are drawn from a list of real
          generated ones, with the errors of prediction that were measured
works     makes that list: the work predicted for each crystal of a file, and for some of them
          (``--steps``: lines of JSON with its place ``i``, the ``calls`` of the potential in its
          relaxation, and the displaced ``copies`` of the relaxed crystal, 0 where that failed)
          what it came to
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import heapq
import itertools
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.planning.blocks import MOST_UNDER_WAY, make_blocks
from hpcbench.planning.prefetch_limit import most_seconds_held

HERE = Path(__file__).parent
WORKS = HERE / "results" / "scaling-works.json"
DEMO = HERE.parent / "jobs" / "demo"
# The rules of the scheduler that time depends on, in s: results are committed; a rank on another
# host counts as dead; an isolated worker has loaded its potential; most that a rank holds.
COMMIT, SILENCE, ISOLATED, LEASE = 30.0, 120.0, 20.0, 600.0
# Two stages of the protocol's default.
MOST_STEPS = 2000
# A rank looks so often which blocks are taken, in s.
LOOK = 300.0
# Thieves choose among so many of the blocks that are left.
CHOICE = 8
SEEDS = 8


@dataclass(frozen=True)
class Device:
    """Describe the device of a rank.

    ``edges`` a second in full passes, ``step``: least seconds of a relaxation step, however
    few crystals are in it.
    """

    name: str
    edges: float
    step: float


DEVICES = {
    # Measured: MatterSim 5M on one core (results/throughput-cpu.json).
    "cpu": Device("one core, measured rate", 1e4, 0.0),
    # Not measured: an order of magnitude.
    "gpu": Device("a GPU, assumed rate", 1e6, 0.02),
}


@dataclass(frozen=True)
class Trouble:
    """Describe the faults of a run.

    ``wrong``: predictions are as wrong as they were measured to be. ``slow`` of the ranks work at
    half speed, the speed of the others varies by ``jitter`` (standard deviation). ``kills``: share
    of the ranks that die before the work would have ended without deaths.
    """

    wrong: bool = True
    slow: float = 0.0
    jitter: float = 0.0
    kills: float = 0.0


@dataclass(frozen=True)
class Held:
    """A crystal that a rank has: when it is worked on, and when it is finished; in s."""

    begin: float
    end: float
    finished: float
    block: int
    row: int


@dataclass
class Rank:
    """A rank of the simulation."""

    speed: float
    own: deque[int]
    held: deque[Held] = field(default_factory=deque)
    # The work of all that it holds ends, and the last of it is finished (a relaxation takes its
    # time, however little else there is to do).
    free_at: float = 0.0
    until: float = 0.0
    busy: float = 0.0
    dead: float = math.inf
    # Predicted seconds that were left when it last looked, and when that was.
    saw: float = 0.0
    looked: float = -math.inf
    # Of what it has committed.
    predicted: float = 0.0
    took: float = 0.0

    @property
    def pace(self) -> float:
        """Actual seconds for a predicted one, so far."""
        return self.took / self.predicted if self.predicted else 1.0


@dataclass(frozen=True)
class Result:
    """Hold the times of a simulated run.

    ``busy``: share of the ranks' time, of the dead until they died, until the last one ends, in
    which they have work. ``useful``: share of all ranks' time that went into results at full
    speed. ``lost``: seconds of ranks that were computed twice. ``deaths``: of ranks.
    """

    seconds: float
    busy: float
    useful: float
    lost: float
    deaths: int


class Simulation:
    """A run: what each rank does, from one event to the next.

    ``costs`` has a row for each crystal: predicted and actual seconds, and the least that it
    takes however little else there is to do.
    """

    def __init__(self, costs: NDArray[Any], ranks: int, trouble: Trouble, seed: int) -> None:
        self._predicted, self._actual, self._least = costs.T
        count = len(costs)
        blocks = make_blocks(range(count), list(self._predicted), ranks, longest=LEASE / 2)
        self._blocks = [block.rows for block in blocks]
        seconds = [block.seconds for block in blocks]
        # Predicted for each block and all after it.
        self._left = list(itertools.accumulate(reversed([*seconds, 0.0])))[::-1]
        self._untaken = self._left[0]
        self._dice = random.Random(seed)
        rng = np.random.default_rng(seed)
        speeds = np.exp(rng.normal(0.0, trouble.jitter, ranks))
        speeds[rng.random(ranks) < trouble.slow] *= 0.5
        numbers = range(len(self._blocks))
        self._ranks = [
            Rank(float(speed), deque(numbers[number::ranks])) for number, speed in enumerate(speeds)
        ]
        self._taken = [False] * len(self._blocks)
        self._first_free = 0
        # Blocks of the dead that the living may take, and those who have nothing to do.
        self._estates: deque[tuple[int, tuple[int, ...]]] = deque()
        self._idle: set[int] = set()
        self._lost = 0.0
        self._ties = itertools.count()
        self._events: list[tuple[float, int, str, Any]] = []
        for number in range(ranks):
            self._push(0.0, "want", number)
        fair = float(self._actual.sum()) / ranks
        for number in np.flatnonzero(rng.random(ranks) < trouble.kills):
            self._push(float(rng.uniform(0.0, fair)), "death", int(number))

    def run(self) -> Result:
        """Play it to the end."""
        while self._events:
            now, _, what, about = heapq.heappop(self._events)
            if what == "want" and self._ranks[about].dead == math.inf:
                self._next(now, about)
            elif what == "death":
                self._die(now, about)
            elif what == "estate":
                self._estates.append(about)
                if self._idle:
                    self._next(now, self._idle.pop())
        ranks = self._ranks
        last = max(rank.until for rank in ranks)
        there = sum(min(rank.dead, last) for rank in ranks)
        return Result(
            last,
            sum(rank.busy for rank in ranks) / there,
            float(self._actual.sum()) / (len(ranks) * last),
            self._lost,
            sum(rank.dead < last for rank in ranks),
        )

    def _push(self, time: float, what: str, about: Any) -> None:
        heapq.heappush(self._events, (time, next(self._ties), what, about))

    def _next(self, now: float, number: int) -> None:
        """A rank takes the next block, if there is one and it does not hold too much."""
        rank = self._ranks[number]
        while rank.held and rank.held[0].finished < now - COMMIT:
            held = rank.held.popleft()
            rank.predicted += self._predicted[held.row]
            rank.took += held.end - held.begin
        if (later := self._holds_until(now, rank)) > now:
            self._push(later, "want", number)
            return
        block = self._lease(rank)
        if block is None and not self._estates:
            self._idle.add(number)
            return
        block, rows = self._estates.popleft() if block is None else (block, self._blocks[block])
        rank.busy -= max(0.0, rank.until - now)
        rank.free_at = max(rank.free_at, now)
        for row in rows:
            begin = rank.free_at
            rank.free_at += self._actual[row] / rank.speed
            finished = max(rank.free_at, now + self._least[row] / rank.speed)
            rank.held.append(Held(begin, rank.free_at, finished, block, row))
            rank.until = max(rank.until, finished)
        rank.busy += rank.until - now
        self._push(now, "want", number)

    def _holds_until(self, now: float, rank: Rank) -> float:
        """Return the time at which it takes another block; ``now`` if it can already."""
        if now - rank.looked > LOOK:
            rank.looked, rank.saw = now, self._untaken
        # What was left when it looked; or what comes after its next block in the plan, if less.
        left = min(rank.saw, self._left[self._candidate(rank)])
        limit = most_seconds_held(left, len(self._ranks), LEASE)
        seconds, number = 0.0, 0
        for held in reversed(rank.held):
            if held.finished > now:
                seconds += self._predicted[held.row] * rank.pace
                number += 1
                if seconds > limit or number > MOST_UNDER_WAY:
                    return held.finished
        return now

    def _candidate(self, rank: Rank) -> int:
        """The block that it would take next, about: its own first."""
        while rank.own and self._taken[rank.own[0]]:
            rank.own.popleft()
        while self._first_free < len(self._taken) and self._taken[self._first_free]:
            self._first_free += 1
        return rank.own[0] if rank.own else self._first_free

    def _lease(self, rank: Rank) -> int | None:
        """A block that nobody has had; ``None`` if there is none."""
        number = self._candidate(rank)
        if not rank.own:
            left = (n for n in range(number, len(self._taken)) if not self._taken[n])
            choice = list(itertools.islice(left, CHOICE))
            if not choice:
                return None
            number = self._dice.choice(choice)
        self._taken[number] = True
        self._untaken -= self._left[number] - self._left[number + 1]
        return number

    def _die(self, now: float, number: int) -> None:
        """A rank dies: what it had not committed is computed by others, when they notice."""
        rank = self._ranks[number]
        rank.dead = now
        self._idle.discard(number)
        rank.busy -= max(0.0, rank.until - now)
        rank.until = min(rank.until, now)
        gone: dict[int, list[int]] = {}
        for held in rank.held:
            if held.finished > now - COMMIT:
                self._lost += min(max(0.0, now - held.begin), held.end - held.begin)
                gone.setdefault(held.block, []).append(held.row)
        for block, rows in gone.items():
            self._push(now + SILENCE + ISOLATED, "estate", (block, tuple(rows)))


def draw(count: int, device: Device, trouble: Trouble, seed: int) -> NDArray[Any]:
    """Crystals at random from the list, as :class:`Simulation` wants them."""
    works = json.loads(WORKS.read_text())
    rng = np.random.default_rng(1000 + seed)
    table = np.array(works["predicted"], dtype=float)
    relaxation, forces, steps = table[rng.integers(len(table), size=count)].T
    ratios = np.array(works["actual_to_predicted"], dtype=float)
    of_steps, of_copies = ratios[rng.integers(len(ratios), size=count)].T
    # A relaxation is given up in the end.
    of_steps = np.minimum(of_steps, MOST_STEPS / steps)
    if not trouble.wrong:
        of_steps = of_copies = np.ones(count)
    predicted = (relaxation + forces) / device.edges
    actual = (relaxation * of_steps + forces * of_copies) / device.edges
    # Alone, a crystal takes what its own passes take, and never less than its steps.
    return np.stack([predicted, actual, np.maximum(actual, steps * of_steps * device.step)], 1)


def split(costs: NDArray[Any], ranks: int) -> NDArray[Any]:
    """The same work as if crystals could be cut into pieces and done by many ranks at once."""
    piece = costs[:, 1].sum() / ranks / 100
    parts = np.maximum(1, np.ceil(costs[:, 1] / piece)).astype(int)
    return np.repeat(costs / parts[:, None], parts, axis=0)


CASES = {
    "predictions right": Trouble(wrong=False),
    "as wrong as measured": Trouble(),
    "and 2 % of ranks at half speed": Trouble(slow=0.02, jitter=0.05),
    "and 5 % of ranks die": Trouble(slow=0.02, jitter=0.05, kills=0.05),
}


def simulations(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The curves and the two cases with targets, printed as they come."""
    device = DEVICES[options.device]
    print(f"{device.name}: {device.edges:g} edges a second, {device.step:g} s a step at least")
    runs = [(1000, ranks) for ranks in (1, 2, 4, 8, 16, 32, 64)]
    runs += [(100_000, ranks) for ranks in (32, 128, 256, 512, 1024)]
    for count, ranks in runs:
        for name, trouble in CASES.items():
            if trouble.kills and ranks < 4:
                continue
            yield one(count, ranks, device, name, trouble)
    for kills in (0.01, 0.02, 0.05, 0.1, 0.2):
        yield one(100_000, 1024, device, f"{kills:.0%} of ranks die", Trouble(kills=kills))


def one(count: int, ranks: int, device: Device, name: str, trouble: Trouble) -> dict[str, Any]:
    """Mean of some runs."""
    results, whole = [], []
    for seed in range(SEEDS if count < 10_000 else 2):
        costs = draw(count, device, trouble, seed)
        results.append(Simulation(costs, ranks, trouble, seed).run())
        cut = Simulation(split(costs, ranks), ranks, trouble, seed).run()
        whole.append(cut.seconds / results[-1].seconds)
    mean = {
        key: float(np.mean([getattr(result, key) for result in results]))
        for key in ("seconds", "busy", "useful", "lost", "deaths")
    }
    work = count and float(draw(count, device, trouble, 0)[:, 1].sum())
    print(
        f"{count:7d} crystals {ranks:5d} ranks  {name:32s} {mean['seconds']:9.0f} s  busy "
        f"{mean['busy']:6.1%}  useful {mean['useful']:6.1%}  computed twice "
        f"{mean['lost'] / work:6.2%}  split would save {1 - np.mean(whole):6.1%}",
        flush=True,
    )
    return {
        "crystals": count, "ranks": ranks, "case": name, **mean, "lost_share": mean["lost"] / work,
        "saved_by_splitting": float(1 - np.mean(whole)),
    }  # fmt: skip


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Real runs with some ranks, one process each."""
    from ase.io import read, write

    from hpcbench.events import read_events

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        crystals = []
        for seed in range(options.copies):
            for path in sorted(DEMO.glob("*.cif")):
                atoms = read(path)
                atoms.rattle(0.02, seed=seed)
                crystals.append(atoms)
        write(folder / "list.extxyz", crystals)
        alone = 0.0
        for ranks in options.ranks:
            out = folder / f"{ranks}.h5"
            words = [
                sys.executable, "-m", "hpcbench", "run", str(folder / "list.extxyz"), "--model",
                "mattersim-demo", "--device", "cpu", "--workers", "0", "--no-report", "--out",
                str(out), "--supercell", "2", "2", "2",
            ]  # fmt: skip
            if ranks > 1:
                launcher = shutil.which("mpiexec") or sys.exit("no mpiexec here")
                words = [launcher, "-n", str(ranks), *words]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            events = [
                event
                for path in (folder / f"{ranks}.h5.run" / "events").glob("rank-*.jsonl")
                for event in read_events(path)[0]
            ]
            ready = min(e["time"] for e in events if e["event"] == "ready")
            walls = [e["wall"] for e in events if e["event"] == "stages"]
            seconds = max(e["time"] for e in events if e["event"] == "stages") - ready
            alone = alone or seconds * ranks
            result = {
                "ranks": ranks, "crystals": len(crystals), "seconds": seconds,
                "busy": sum(walls) / (ranks * seconds), "efficiency": alone / (ranks * seconds),
                "cores": len(os.sched_getaffinity(0)),
            }  # fmt: skip
            print(
                f"{ranks} ranks on {result['cores']} cores: {len(crystals)} crystals in "
                f"{seconds:.0f} s, busy {result['busy']:.1%}, efficiency {result['efficiency']:.1%}"
            )
            yield result


def make_works(options: argparse.Namespace) -> None:
    """Write the list that simulations draw from."""
    from ase.io import read

    from hpcbench.crystal import Crystal
    from hpcbench.curation.validation import examine
    from hpcbench.errors import HpcbenchError
    from hpcbench.planning.costs import GROWTH, STEPS, predict_work
    from hpcbench.planning.displacements import count

    matrix = 2 * np.eye(3, dtype=np.int64)
    predicted, steps_of, copies_of = [], {}, {}
    for index, atoms in enumerate(read(options.crystals, index=":")):
        crystal = Crystal.from_ase(atoms)
        try:
            examine(crystal)
        except HpcbenchError:
            continue
        work = predict_work(crystal, matrix, 0.01)
        steps_of[index] = STEPS * count(crystal, matrix, 0.01).freedom ** GROWTH
        copies_of[index] = work.copies
        predicted.append([round(work.relaxation), round(work.forces), round(steps_of[index])])
    measured = [json.loads(line) for line in options.steps.read_text().splitlines()]
    ratios = [
        [round(m["calls"] / steps_of[m["i"]], 3), round(m["copies"] / copies_of[m["i"]], 3)]
        for m in measured
    ]
    lines = {"predicted": predicted, "actual_to_predicted": ratios}
    WORKS.write_text(json.dumps(lines).replace("], [", "],\n[") + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("measure", "simulate", "works"))
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--copies", type=int, default=10, help="of the demo's crystals, measured")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="simulated")
    parser.add_argument("--crystals", type=Path, help="a list for ase.io.read")
    parser.add_argument("--steps", type=Path, help="what relaxations came to: a JSON a line")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.what == "works":
        make_works(options)
        return
    ways = {"measure": measure, "simulate": simulations}
    results = list(ways[options.what](options))
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
