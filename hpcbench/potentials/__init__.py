"""Potentials behind one protocol: energies, forces and stresses of many structures."""
