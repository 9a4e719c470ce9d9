"""Describe a potential before it is loaded, and what its loader is given. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpcbench.errors import PotentialError
from hpcbench.package_versions import installed
from hpcbench.potentials.protocol import PotentialInfo
from hpcbench.potentials.weights import (
    PackagedWeights,
    Weights,
    on_this_node,
    sha256_of,
)

SINGLE, DOUBLE = "float32", "float64"

USUAL_CUTOFF = 5.0
"""Longest edge of most potentials, in A: that by which plans count edges."""


@dataclass(frozen=True)
class PotentialSpec:
    """Describe a potential before it is loaded.

    Attributes
    ----------
    name : str
        As ``--model`` takes it. It is in the store, so it always means the same potential.
    description : str
        What it is, in some words, for ``hpcbench models``.
    loader : str
        ``module:function``. The module is imported when the potential is loaded; the function is
        called with a :class:`LoadRequest` and returns a
        :class:`~hpcbench.potentials.protocol.Potential`.
    distribution : str
        The installed package that computes it, as pip calls it. Its version is recorded in the
        store, and must be the same for all ranks of a run.
    licence : str
        Of the weights.
    precisions : tuple of str
        Those in which it can be loaded: ``float32``, ``float64``. Empty: it does not say, and is
        given the one that is asked for.
    batched : bool
        Whether structures share forward passes; else they are evaluated one after the other.
    response : bool
        Whether it has linear response (``Responsive`` or ``Differentiable``).
    weights : Weights, optional
        Its file of weights; none where weights and code are one.
    elements : frozenset of int, optional
        Atomic numbers that it knows, where that is known before it is loaded.
    extra : str
        The extra of hpcbench that installs its package; empty where that comes along.
    edges_per_second : float, optional
        Edges that one core of a CPU computes in a second: what ``hpcbench plan`` rests on before
        a run has measured it.
    bytes_per_edge : float, optional
        Memory of a forward pass by edge.
    cutoff : float
        Longest edge, in A: what these rates stand for by crystal.
    """

    name: str
    description: str
    loader: str
    distribution: str
    licence: str
    precisions: tuple[str, ...] = (SINGLE,)
    batched: bool = False
    response: bool = False
    weights: Weights | None = None
    elements: frozenset[int] | None = None
    extra: str = ""
    edges_per_second: float | None = None
    bytes_per_edge: float | None = None
    cutoff: float = USUAL_CUTOFF

    def weights_path(self) -> Path | None:
        """Return the file of its weights; ``None`` where it has none.

        Raises
        ------
        PotentialError
            If they are missing; the message says what to do.
        """
        if self.weights is None:
            return None
        try:
            return self.weights.path(self.name)
        except PotentialError as error:
            if self.extra and isinstance(self.weights, PackagedWeights):
                raise PotentialError(f"{error}: {how_to_install(self.extra)}") from None
            raise

    def weights_sha256(self) -> str:
        """Return the SHA-256 of its weights; empty where it has none.

        Raises
        ------
        PotentialError
            If they are missing, or others than the table says.
        """
        path = self.weights_path()
        if path is None:
            return ""
        digest = sha256_of(on_this_node(path))
        self.require_weights(digest)
        return digest

    def require_weights(self, digest: str) -> None:
        """Refuse weights that are not those of this name, by their SHA-256.

        Raises
        ------
        PotentialError
            If they are others.
        """
        known = self.weights.sha256 if self.weights else ""
        if known and digest != known:
            raise PotentialError(
                f"the weights of {self.name} are not those that this name stands for: "
                f"{self.weights_path()} has the SHA-256 {digest[:16]}, not {known[:16]}. Install a "
                f"release of {self.distribution} that ships them, or load others by --model "
                f"module:callable"
            )


@dataclass(frozen=True)
class LoadRequest:
    """Hold the arguments of a loader.

    Attributes
    ----------
    spec : PotentialSpec
        Which potential.
    dtype : str
        ``float32`` or ``float64``; one of the table's ``precisions``.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    max_edges : int
        Most edges of one forward pass, for potentials that batch; 0: to be found on the device.
    ranks_on_host : int
        Processes that share the machine's memory.
    """

    spec: PotentialSpec
    dtype: str = SINGLE
    device: str = "cpu"
    max_edges: int = 0
    ranks_on_host: int = 1

    def weights(self) -> Path:
        """Return the file of weights, on the node's own disk where a copy is there.

        Raises
        ------
        PotentialError
            If they are missing.
        """
        path = self.spec.weights_path()
        assert path is not None, f"{self.spec.name} has no weights in the table"
        return on_this_node(path)

    def info(
        self, elements: frozenset[int] | None = None, *, differentiable: bool = False
    ) -> PotentialInfo:
        """Return what is recorded of the potential, from the table.

        Parameters
        ----------
        elements : frozenset of int, optional
            Atomic numbers that it knows, where the table does not have them.
        differentiable : bool
            Whether it is ``Differentiable``; one with linear response is else ``Responsive``.

        Raises
        ------
        PotentialError
            If its weights are missing, or others than the table says.
        """
        return PotentialInfo(
            self.spec.name,
            self.spec.distribution,
            installed(self.spec.distribution),
            self.spec.weights_sha256(),
            self.dtype,
            self.device,
            elements or self.spec.elements,
            responds=self.spec.response and not differentiable,
            differentiable=differentiable,
        )


def how_to_install(extra: str) -> str:
    """Return what to do to get the packages of an extra."""
    return f"./launch.sh setup {extra}, or pip install '.[{extra}]' in hpcbench's folder"
