"""Errors of potentials against references: tables, figures, the page and JSON."""
