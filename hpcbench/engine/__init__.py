"""The work of one rank: the computation of its crystals, and the processes and threads it uses."""
