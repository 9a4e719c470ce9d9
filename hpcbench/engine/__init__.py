"""One rank at work: its crystals on their way, and what is done beside the potential."""
