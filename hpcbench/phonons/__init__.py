"""Harmonic phonons: displacements, force constants, spectra, thermal properties and stability."""
