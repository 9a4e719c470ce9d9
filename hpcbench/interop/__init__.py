"""Results in the formats of other programs, and the results of other programs as a store."""
