"""The results, for a terminal, as JSON and as plots."""
