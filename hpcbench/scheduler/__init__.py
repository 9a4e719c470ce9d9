"""Ranks and devices, the plan, leases, signals, and what a rank does with its crystals."""
