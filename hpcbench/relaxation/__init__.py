"""Relaxation of crystals to a minimum of the potential energy, with their symmetry kept."""
