"""Before a run: the list of crystals, what each will cost, and in which order."""
