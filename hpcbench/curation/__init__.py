"""Selection of crystals: those that can be computed, that are not duplicates, that are sampled."""
