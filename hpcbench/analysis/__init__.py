"""Rates of generators with their intervals, rankings, and the convergence of rates."""
