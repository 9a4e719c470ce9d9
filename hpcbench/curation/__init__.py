"""Which crystals count: those that can be computed, that are no duplicates, that are sampled."""
