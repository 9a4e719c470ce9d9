"""Planning of a run: the list of crystals, their predicted costs, and blocks of work."""
