"""The table of potentials: what the program knows of each, in one place. Loads no torch.

A potential is an entry here, or in a package of its own an entry point of the group
``hpcbench.potentials``, and one function that loads it (see CONTRIBUTING.md).
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

from hpcbench.errors import ModelError, named
from hpcbench.potentials.spec import DOUBLE, SINGLE, PotentialSpec
from hpcbench.potentials.weights import (
    DEMO_ELEMENTS,
    PackagedWeights,
    PublishedWeights,
)

GROUP = "hpcbench.potentials"
"""The group of entry points in which packages offer potentials."""


DEMO = "mattersim-demo"
"""The embedded potential: a stand-in for demonstrations and tests, which reports say."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


MATTERSIM_LOADER = "hpcbench.potentials.mattersim:load_mattersim"


def _mattersim(size: str, edges_per_second: float, bytes_per_edge: float) -> PotentialSpec:
    """Return the entry of published weights of MatterSim."""
    name = f"mattersim-v1.0.0-{size}"
    return PotentialSpec(
        name=name,
        description="MatterSim v1, Microsoft",
        loader=MATTERSIM_LOADER,
        distribution="mattersim",
        licence="MIT",
        precisions=(SINGLE, DOUBLE),
        batched=True,
        response=True,
        weights=PublishedWeights(
            f"{name}.pth",
            # Where MatterSim's own calculator keeps them.
            folder=".local/mattersim/pretrained_models",
            download="hpcbench.potentials.fetch:download_mattersim",
        ),
        edges_per_second=edges_per_second,
        bytes_per_edge=bytes_per_edge,
    )


def _sevennet(
    name: str, file: str, sha256: str, edges_per_second: float, bytes_per_edge: float
) -> PotentialSpec:
    """Return the entry of a SevenNet potential that its package ships."""
    return PotentialSpec(
        name=name,
        description="pretrained weights in package sevenn",
        loader="hpcbench.potentials.sevennet:load_sevennet",
        distribution="sevenn",
        licence="MIT",
        batched=True,
        response=True,
        weights=PackagedWeights("sevenn", f"pretrained_potentials/{file}", sha256),
        extra="sevennet",
        edges_per_second=edges_per_second,
        bytes_per_edge=bytes_per_edge,
    )


MACE_LOADER = "hpcbench.potentials.mace:load_mace"

MACE_BYTES_PER_EDGE = 100e3
"""Memory of a forward pass of MACE by edge: about that of 128 channels of degrees 0 and 1."""


def _nequix(name: str, description: str) -> PotentialSpec:
    """Return the entry of published weights of Nequix."""
    return PotentialSpec(
        name=name,
        description=description,
        loader="hpcbench.potentials.nequix:load_nequix",
        distribution="e3nn",
        licence="CC-BY-4.0",
        precisions=(SINGLE, DOUBLE),
        batched=True,
        response=True,
        weights=PublishedWeights(
            f"{name}.nqx",
            # Where Nequix's own calculator keeps them.
            folder=".cache/nequix/models",
            download="hpcbench.potentials.fetch:download_nequix",
            also=(f"{name}.pt",),
        ),
        extra="nequix",
        edges_per_second=7e3,
        bytes_per_edge=28e3,
        cutoff=6.0,
    )


def _matgl(
    name: str,
    folder: str,
    download: str,
    sha256: str,
    edges_per_second: float,
    bytes_per_edge: float,
) -> PotentialSpec:
    """Return the entry of a potential in matgl's format."""
    return PotentialSpec(
        name=name,
        description=folder.removesuffix("-PES"),
        loader="hpcbench.potentials.matgl:load_matgl",
        distribution="matgl",
        licence="BSD-3-Clause",
        precisions=(SINGLE, DOUBLE),
        batched=True,
        weights=PublishedWeights(
            "state.pt",
            folder=f".cache/matgl/{folder}",
            download=f"hpcbench.potentials.fetch:{download}",
            sha256=sha256,
            beside=("model.pt", "model.json"),
        ),
        extra="matgl",
        edges_per_second=edges_per_second,
        bytes_per_edge=bytes_per_edge,
    )


# Edges a second: one core (benchmarks/results/throughput-cpu.json, throughput-packages.json, where
# bytes by edge are too; those of MatterSim: benchmarks/memory.py). SHA-256: of all releases that
# pyproject.toml allows.
_TABLE = (
    _mattersim("1M", edges_per_second=4e4, bytes_per_edge=23e3),
    _mattersim("5M", edges_per_second=1e4, bytes_per_edge=55e3),
    PotentialSpec(
        name=DEMO,
        description="small stand-in for demos and tests only",
        loader=MATTERSIM_LOADER,
        distribution="mattersim",
        licence="MIT",
        precisions=(SINGLE, DOUBLE),
        batched=True,
        response=True,
        weights=PackagedWeights(
            "hpcbench",
            "potentials/mattersim_demo/mattersim-demo.pth",
            "4143715a2bf2ec57e52adaa5a1dd79fe62e405d482971c32487c3229fbc99f01",
        ),
        elements=DEMO_ELEMENTS,
        edges_per_second=8e4,
        bytes_per_edge=8e3,
    ),
    _nequix("nequix-oam-1", "Nequix on OMat24, sAlex, MPtrj"),
    _nequix("nequix-oam-1-pft", "the same, tuned on phonons"),
    _nequix("nequix-mp-1-pft", "Nequix on MPtrj, tuned on phonons"),
    PotentialSpec(
        name="chgnet",
        description="pretrained weights in package chgnet",
        loader="hpcbench.potentials.chgnet:load_chgnet",
        distribution="chgnet",
        licence="BSD-3-Clause",
        precisions=(SINGLE, DOUBLE),
        batched=True,
        weights=PackagedWeights(
            "chgnet",
            "pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
            "d14ab7c0f093efe64b60a7bcd540bca10e74fb7f46c86108a079af60524659d1",
        ),
        elements=frozenset(range(1, 95)),
        extra="chgnet",
        edges_per_second=15e3,
        bytes_per_edge=105e3,  # of diamond, whose bonds have the most angles; of copper 46e3
        cutoff=6.0,
    ),
    _sevennet(
        "sevennet-0",
        "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
        "7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36",
        edges_per_second=6e3,
        bytes_per_edge=32e3,
    ),
    _sevennet(
        "sevennet-l3i5",
        "SevenNet_l3i5/checkpoint_l3i5.pth",
        "a7ff190d41efe5b8317a03d20a468e4036a1a3e64e0b14fdbab64ac3f4bfc09d",
        edges_per_second=3e3,
        bytes_per_edge=51e3,
    ),
    _matgl(
        "m3gnet-mp-2021.2.8",
        "M3GNet-MP-2021.2.8-PES",
        "download_m3gnet",
        "a9aa723705bd1a242ec8749332f137811c4a94e17995a564f8f94a9aca68061b",
        edges_per_second=25e3,
        bytes_per_edge=36e3,
    ),
    _matgl(
        "tensornet-matpes-pbe-2025.1",
        "TensorNet-MatPES-PBE-v2025.1-PES",
        "download_tensornet",
        "d2dfa51a65d23a47fd935eb0628177d2a1088584562091ef3350ce3a002fce6a",
        edges_per_second=6e3,
        bytes_per_edge=96e3,
    ),
)

BUILT_IN: Mapping[str, PotentialSpec] = {spec.name: spec for spec in _TABLE}
"""The potentials that hpcbench itself knows, by name."""


def known_potential(name: str) -> PotentialSpec | None:
    """Return the entry of a potential, built in or of an installed package; ``None`` without one.

    Of packages only the one that offers this name is imported.

    Raises
    ------
    ModelError
        If a package offers it and something is wrong with that.
    """
    if name in BUILT_IN or not _is_name(name):
        return BUILT_IN.get(name)
    return _spec_of(_offered()[name]) if name in _offered() else None


def _is_name(text: str) -> bool:
    """Tell names from files and from module:callable."""
    return bool(_NAME.fullmatch(text)) and not text.endswith((".pth", ".pt", ".nqx", ".model"))


def known_names() -> list[str]:
    """Return the names of all potentials, those of packages last; imports none of them."""
    return list(dict.fromkeys([*BUILT_IN, *_offered()]))


def offered_potentials() -> Iterator[tuple[str, PotentialSpec | ModelError]]:
    """Yield the name and the entry of each potential that packages offer, or what is wrong."""
    for name, points in _offered().items():
        try:
            yield name, _spec_of(points)
        except ModelError as error:
            yield name, error


_Offered = Mapping[str, Sequence[EntryPoint]]


def _offered() -> _Offered:
    return _offered_on(tuple(sys.path))


@functools.cache
def _offered_on(path: tuple[str, ...]) -> _Offered:
    # Looked for once: it opens a file of each installed package.
    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        found.setdefault(point.name, []).append(point)
    return found


def _spec_of(points: Sequence[EntryPoint]) -> PotentialSpec:
    """Return what the entry points of one name offer.

    Raises
    ------
    ModelError
        If there is more than one, or it cannot be imported, or is no entry under its name.
    """
    where = "; ".join(f"entry point {point.name} = {point.value} of {GROUP}" for point in points)
    name = points[0].name
    if name in BUILT_IN:
        raise ModelError(f"{where}: hpcbench has a potential of that name itself")
    if len(points) > 1:
        raise ModelError(f"{where}: it is not clear which of them is meant")
    try:
        spec = points[0].load()
    except Exception as error:  # other people's code
        raise ModelError(f"{where}: it cannot be imported ({named(error)})") from error
    if not isinstance(spec, PotentialSpec):
        raise ModelError(f"{where}: it is no PotentialSpec but a {type(spec).__name__}")
    if spec.name != name:
        raise ModelError(f"{where}: its potential has another name, {spec.name!r}")
    if not _is_name(name):
        raise ModelError(
            f"{where}: a name has letters, digits and . _ + - only, and no ending of a file"
        )
    return spec
