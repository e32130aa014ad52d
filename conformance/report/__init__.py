"""The verdicts of a run: for a terminal, as HTML, JSON and Markdown, and as JUnit XML."""
