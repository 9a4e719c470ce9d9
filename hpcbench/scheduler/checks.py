"""Checks before the work: the ranks must fit together, and be able to write their results.

Each rank gathers its facts and shares them, and every rank examines the facts of all, so that all
ranks come to the same conclusion. Problems that would make results wrong or lose them are errors:
different software or weights, a folder that is not shared or not writable. Others are notes:
clocks, since no rank compares its own with another's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import secrets
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcbench.errors import HpcbenchError, LaunchError, PotentialError, SetupError, StoreError
from hpcbench.package_versions import deciding_versions
from hpcbench.potentials.registry import spec_of, weights_sha256
from hpcbench.scheduler.disk import look, remedy, write_probe
from hpcbench.scheduler.world import World, places
from hpcbench.version import PACKAGE

# In seconds: clocks that agree better than this are set by some service.
CLOCK_TOLERANCE = 5.0


@dataclass(frozen=True)
class Facts:
    """The facts that one rank knows about itself and the run.

    Attributes
    ----------
    rank : int
        The rank.
    host : str
        Its host.
    software : dict
        Versions of the packages that determine results, by name.
    code : str
        Digest of hpcbench's own code; only on one rank of each host, else empty.
    home : str
        Folder that hpcbench was loaded from.
    weights : str
        Beginning of the weights' SHA-256, or why there are none; only on one rank of each host and
        if the model has a file, else empty.
    folder : str
        The run's folder, as this rank sees it.
    absent : bool
        Whether this rank does not see the file that rank 0 wrote there.
    unwritable : str
        Why this rank cannot write there; empty if it can.
    advice : str
        The remedy for that.
    problem : str
        An error while the facts were gathered.
    """

    rank: int
    host: str
    software: Mapping[str, str]
    code: str = ""
    home: str = ""
    weights: str = ""
    folder: str = ""
    absent: bool = False
    unwritable: str = ""
    advice: str = ""
    problem: str = ""


def check_world(
    world: World, folder: Path, model: str, *, clock: Callable[[], float] = time.time
) -> list[str]:
    """Check that the ranks fit together and can write; return notes for the user. Collective.

    Parameters
    ----------
    world : World
        The ranks.
    folder : Path
        The run's folder, which rank 0 has made.
    model : str
        As for ``--model``; empty if a loaded potential was passed.
    clock : callable, optional
        Returns this host's time, in seconds.

    Raises
    ------
    SetupError
        On every rank, if results would be wrong or lost; the message says what to do.
    """
    problems, notes = survey(world, folder, model, clock=clock)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise SetupError("\n".join(str(problem) for problem in problems))
    return notes


def survey(
    world: World, folder: Path, model: str, *, clock: Callable[[], float] = time.time
) -> tuple[list[SetupError], list[str]]:
    """Return problems and notes, the same on every rank. Collective.

    Parameters
    ----------
    world : World
        The ranks.
    folder : Path
        The run's folder, which rank 0 has made.
    model : str
        As for ``--model``; empty if a loaded potential was passed.
    clock : callable, optional
        Returns this host's time, in seconds.
    """
    with _probe(world, folder) as (name, problem):
        hosts = world.share(socket.gethostname())
        # On one rank of each host: the code is a hundred files, and weights are large.
        leads = world.size > 1 and hosts.index(hosts[world.rank]) == world.rank
        everyone = world.share(_facts(world, folder, name, model, leads))
    # Right after a collective call: ranks leave it within milliseconds of each other.
    clocks = world.share(clock())
    problems = examine(everyone)
    if problem:
        problems.append(StoreError(problem))
    note = compare_clocks(everyone, clocks)
    return problems, [note] if note else []


def examine(everyone: Sequence[Facts]) -> list[SetupError]:
    """Return the problems of all ranks taken together."""
    broken = [f"{_who([facts])}: {facts.problem}" for facts in everyone if facts.problem]
    if broken:
        return [SetupError("the start-up checks failed on\n  " + "\n  ".join(broken))]
    found = (_software(everyone), _weights(everyone), _folder(everyone))
    return [problem for problem in found if problem is not None]


def compare_clocks(everyone: Sequence[Facts], clocks: Sequence[float]) -> str:
    """Return a note on clocks that disagree; empty if they agree.

    Parameters
    ----------
    everyone : sequence of Facts
        The facts of all ranks.
    clocks : sequence of float
        Their clocks, in seconds.
    """
    middle = statistics.median_low(clocks)
    ahead: dict[int, list[Facts]] = {}
    for facts, clock in zip(everyone, clocks, strict=True):
        if abs(clock - middle) > CLOCK_TOLERANCE:
            ahead.setdefault(round(clock - middle), []).append(facts)
    if not ahead:
        return ""
    wrong = "; ".join(
        f"{_who(those)} {abs(seconds)} s {'ahead' if seconds > 0 else 'behind'}"
        for seconds, those in ahead.items()
    )
    return (
        f"clocks disagree: {wrong}. Results do not depend on clocks, but times in logs and rates "
        f"in `hpcbench status` do, and the end of the job is taken from the clock of rank 0's "
        f"host. Tell the cluster's administrators; `chronyc tracking` on a host says how it is set"
    )


@contextlib.contextmanager
def _probe(world: World, folder: Path) -> Iterator[tuple[str, str]]:
    """Write a file on rank 0; yield its name, or why it could not be written. Collective."""
    name, problem = "", ""
    if world.rank == 0:
        # Removed with other torn files if this process is killed here (see ``RunFolder``).
        path = folder / f".probe-{secrets.token_hex(8)}.part"
        try:
            write_probe(path)
            name = path.name
        except OSError as error:
            problem = (
                f"cannot write results to {folder} on {socket.gethostname()}: "
                f"{error.strerror or error}; {remedy(error, folder)}"
            )
    name, problem = world.broadcast((name, problem))
    try:
        yield name, problem
    finally:
        if world.rank == 0 and name:
            with contextlib.suppress(OSError):
                path.unlink()


def _facts(world: World, folder: Path, name: str, model: str, leads: bool) -> Facts:
    """Return the facts of this rank; never raises, because the other ranks wait."""
    facts = Facts(world.rank, socket.gethostname(), {}, folder=os.path.abspath(folder))
    try:
        absent, unwritable, advice = look(folder, name, world.rank)
        software: dict[str, str] = {}
        if world.size > 1:
            software = {"Python": ".".join(platform.python_version_tuple()[:2])}
            software |= deciding_versions(*_packages(model))
        return Facts(
            rank=world.rank,
            host=facts.host,
            software=software,
            code=code_digest() if leads else "",
            home=str(PACKAGE),
            weights=_weights_here(model) if leads else "",
            folder=facts.folder,
            absent=absent,
            unwritable=unwritable,
            advice=advice,
        )
    except Exception as error:
        return Facts(
            world.rank,
            facts.host,
            {},
            folder=facts.folder,
            problem=f"{type(error).__name__}: {error}",
        )


def _packages(model: str) -> tuple[str, ...]:
    """Return the package that computes the model, as pip calls it."""
    return (spec_of(model).distribution,) if model else ()


def _weights_here(model: str) -> str:
    if not model:
        return ""
    try:
        digest = weights_sha256(model)
    except HpcbenchError as error:
        return f"none: {error}"
    except OSError as error:
        return f"none: {error.strerror or error}"
    return f"SHA-256 {digest[:16]}" if digest else ""


def code_digest() -> str:
    """Return a digest of hpcbench's code: two copies of one version may differ."""
    digest = hashlib.sha256()
    folder = PACKAGE
    for path in sorted(folder.rglob("*.py")):
        digest.update(os.fsencode(path.relative_to(folder)) + path.read_bytes())
    return digest.hexdigest()[:12]


def _software(everyone: Sequence[Facts]) -> LaunchError | None:
    lines: list[str] = []
    for name in dict.fromkeys(name for facts in everyone for name in facts.software):

        def text(facts: Facts, name: str = name) -> str:
            return f"{name} {facts.software.get(name) or 'missing'}"

        lines += _differences(everyone, text)
    leaders = [facts for facts in everyone if facts.code]
    lines += _differences(leaders, lambda facts: f"hpcbench with the code {facts.code}")
    # If one host has two copies of hpcbench, only one of them has been read.
    for host in dict.fromkeys(facts.host for facts in everyone):
        there = [facts for facts in everyone if facts.host == host]
        lines += _differences(there, lambda facts: f"hpcbench from {facts.home}")
    if not lines:
        return None
    return LaunchError(
        "the ranks run different software, so their results would not belong together:\n"
        + "\n".join(lines)
        + "\nstart all ranks with one Python environment on a file system that all nodes share: "
        "activate it before srun or mpiexec, and look for PYTHONPATH in the start-up files of "
        "your shell. A copy on each node must be the same everywhere"
    )


def _weights(everyone: Sequence[Facts]) -> PotentialError | None:
    lines = _differences(
        [facts for facts in everyone if facts.weights], lambda facts: facts.weights
    )
    if not lines:
        return None
    return PotentialError(
        "the hosts have different weights:\n"
        + "\n".join(lines)
        + "\nremove those that are old (`python -m hpcbench models` says where they lie), or give "
        "--model FILE.pth on a file system that all nodes share"
    )


def _folder(everyone: Sequence[Facts]) -> StoreError | None:
    absent = [facts for facts in everyone if facts.absent]
    if absent:
        return StoreError(
            f"the run's folder is not the same for all ranks: {_who(everyone[:1])} has made "
            f"{everyone[0].folder}, but a file that it wrote there is not seen by\n"
            + "\n".join(_differences(absent, lambda facts: facts.folder, least=1))
            + "\ngive --out a path on a file system that all nodes share: /tmp and $TMPDIR "
            "usually are each node's own (`df -h FOLDER` says what a folder lies on)"
        )
    unwritable = [facts for facts in everyone if facts.unwritable]
    if unwritable:
        return StoreError(
            f"cannot write to {everyone[0].folder}:\n"
            + "\n".join(_differences(unwritable, lambda facts: facts.unwritable, least=1))
            + f"\n{unwritable[0].advice}"
        )
    return None


def _differences(
    everyone: Sequence[Facts], text: Callable[[Facts], str], least: int = 2
) -> list[str]:
    """Return a line for each value with its ranks, the most common first; none if they agree."""
    groups: dict[str, list[Facts]] = {}
    for facts in everyone:
        groups.setdefault(text(facts), []).append(facts)
    if len(groups) < least:
        return []
    return [
        f"  {value}: {_who(those)}"
        for value, those in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def _who(those: Sequence[Facts]) -> str:
    return places((facts.rank, facts.host) for facts in those)
