"""Threads of numerical libraries. Loads nothing."""

from __future__ import annotations

import os

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def cap_threads() -> None:
    """One thread for BLAS, OpenMP and Rayon in this process, unless the user said otherwise.

    To be called before numpy and torch are imported. Several processes of one thread each do
    best on CPUs, and threads beside other work make a rank several times slower.
    """
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
