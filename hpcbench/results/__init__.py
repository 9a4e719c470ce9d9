"""Rows and columns of what was computed: made from physics, and computed again from a row."""
