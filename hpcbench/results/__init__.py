"""Rows and columns of results: made from physics, or computed again from stored rows."""
