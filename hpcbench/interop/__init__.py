"""Export of results in other programs' formats, and import of their results."""
