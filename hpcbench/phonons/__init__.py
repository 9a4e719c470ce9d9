"""Displacements, force constants, spectra, thermal properties, and criteria of stability."""
