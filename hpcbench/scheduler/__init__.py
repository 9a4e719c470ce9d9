"""Ranks and devices, the plan, leases, and the work of a rank on its crystals."""
