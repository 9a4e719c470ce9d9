"""Errors of a potential against reference phonons: the tables of the literature, from a store."""
