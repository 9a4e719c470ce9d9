"""Criteria of dynamical stability: what each one looks at, and where it draws the line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IMAGINARY = -1e-3
"""THz, of the strictest criterion in use: acoustic modes at Gamma are never exactly zero."""
KELVIN_PER_TERAHERTZ = 47.992
"""h/k_B in K per THz, as Loew et al. convert."""


@dataclass(frozen=True)
class Criterion:
    """One criterion of stability.

    A crystal is unstable when any frequency is below ``threshold``. The three lowest modes at
    Gamma are compared with ``gamma_threshold`` instead, or left out where it is ``None`` and
    ``gamma_apart`` is set.

    Attributes
    ----------
    name : str
        Its name in tables.
    place : str
        Where it looks: ``path`` (the band path), ``commensurate`` (the q commensurate with the
        supercell), or ``mesh``.
    threshold : float
        In THz.
    gamma_apart : bool
        Whether the three lowest modes at Gamma are treated apart.
    gamma_threshold : float or None
        Threshold in THz for those; ``None`` leaves them out.
    source : str
        Where the criterion is from.
    """

    name: str
    place: str
    threshold: float
    gamma_apart: bool = False
    gamma_threshold: float | None = None
    source: str = ""

    @property
    def column(self) -> str:
        """The name of its column in a store."""
        return "verdict_" + self.name.replace("-", "_")


CRITERIA = (
    Criterion("phononbench", "path", -0.001, source="PhononBench, arXiv 2512.21227v1 and its code"),
    Criterion("phononbench-v3", "path", -0.1, source="PhononBench, arXiv 2512.21227v3"),
    Criterion(
        "loew",
        "commensurate",
        0.0,
        gamma_apart=True,
        gamma_threshold=-50.0 / KELVIN_PER_TERAHERTZ,
        source="Loew et al., npj Comput. Mater. 11, 178 (text)",
    ),
    Criterion("lee-xia", "path", -0.5, source="Lee and Xia, arXiv 2407.09674"),
    Criterion("mattersim", "path", -0.299, source="MatterSim's PhononWorkflow"),
    Criterion("mesh", "mesh", -0.1, gamma_apart=True, source="acoustic modes at Gamma left out"),
)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Frequencies at some q-points.

    Attributes
    ----------
    qpoints : ndarray, shape (nq, 3)
        In reduced coordinates of the primitive cell's reciprocal lattice.
    frequencies : ndarray, shape (nq, nbands)
        In THz, ascending; negative where imaginary.
    """

    qpoints: NDArray[np.float64]
    frequencies: NDArray[np.float64]

    @property
    def lowest(self) -> tuple[float, NDArray[np.float64]]:
        """The lowest frequency in THz and its q-point."""
        at = int(self.frequencies.min(axis=1).argmin())
        return float(self.frequencies[at].min()), self.qpoints[at]

    @property
    def highest(self) -> float:
        """The highest frequency in THz."""
        return float(self.frequencies.max())


def is_stable(criterion: Criterion, spectrum: Spectrum) -> bool:
    """The criterion's answer for the spectrum of its place."""
    frequencies = np.sort(spectrum.frequencies, axis=1)
    if not criterion.gamma_apart:
        return bool((frequencies >= criterion.threshold).all())
    away = np.abs(spectrum.qpoints - np.rint(spectrum.qpoints)).max(axis=1) > 1e-8
    at_gamma = frequencies[~away]
    acoustic_are_fine = criterion.gamma_threshold is None or bool(
        (at_gamma[:, :3] >= criterion.gamma_threshold).all()
    )
    return (
        acoustic_are_fine
        and bool((frequencies[away] >= criterion.threshold).all())
        and bool((at_gamma[:, 3:] >= criterion.threshold).all())
    )


def verdicts(spectra: dict[str, Spectrum]) -> dict[str, str]:
    """``stable`` or ``unstable`` by every criterion; spectra by place."""
    return {c.name: "stable" if is_stable(c, spectra[c.place]) else "unstable" for c in CRITERIA}
