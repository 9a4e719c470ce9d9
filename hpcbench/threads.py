"""Number of threads of numerical libraries.

This module imports nothing heavy.
"""

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
    """Limit BLAS, OpenMP and Rayon in this process to one thread, unless the user has set a number.

    To be called before numpy and torch are imported. Several processes of one thread each do best
    on CPUs, and threads beside other work make a rank several times slower.
    """
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
