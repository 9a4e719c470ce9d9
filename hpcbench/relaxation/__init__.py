"""Relaxation to a minimum, with the crystal's symmetry kept."""
