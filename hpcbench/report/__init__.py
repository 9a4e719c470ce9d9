"""Terminal tables, figures, and the HTML report."""
