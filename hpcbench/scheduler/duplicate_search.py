"""The list of a run, made from the crystals that all ranks have read, which share comparisons."""

from __future__ import annotations

from collections.abc import Sequence

from hpcbench.config import RunConfig
from hpcbench.curation.duplicates import Candidates, Formula
from hpcbench.errors import SetupError
from hpcbench.limits import Limits
from hpcbench.planning import curated_list
from hpcbench.planning.crystal_list import CrystalList, ListedCrystal, together
from hpcbench.scheduler.world import World, by_rank_0
from hpcbench.sources import SourceFile, find_files


def curated(
    config: RunConfig, world: World, gathered: Sequence[Sequence[ListedCrystal] | SetupError]
) -> CrystalList | None:
    """Return the list on rank 0, elsewhere ``None``. Collective.

    Parameters
    ----------
    config : RunConfig
        Resolved settings.
    world : World
        The ranks.
    gathered : sequence
        On rank 0, the crystals or the error of each rank.

    Raises
    ------
    SetupError
        The error of one of the ranks while reading.
    SourceError
        If there is no readable crystal, or no known ones where they should be.
    """
    listing: CrystalList | None = None
    limits = Limits(config.read_limits)

    def begin() -> tuple[list[SourceFile], set[Formula]]:
        nonlocal listing
        listing = together(config, gathered)
        if not config.against:
            return [], set()
        return find_files(config.against, limits), curated_list.formulas_of(listing)

    files, formulas = by_rank_0(world, begin)
    if not curated_list.is_wanted(config):
        return listing
    read = world.gather(
        curated_list.read_references(files, formulas, world.rank, world.size, limits)
    )

    def groups() -> list[Candidates]:
        assert listing is not None, "this is rank 0"
        return curated_list.groups_to_compare(
            listing, config, curated_list.all_references(config, read)
        )

    to_compare = by_rank_0(world, groups)
    found = world.gather(curated_list.matches(to_compare[world.rank :: world.size], world.rank))

    def end() -> None:
        nonlocal listing
        assert listing is not None, "this is rank 0"
        listing = curated_list.apply(listing, config, curated_list.all_matches(found))

    by_rank_0(world, end)
    return listing
