"""The formats in which a report is written to a file."""

from pathlib import Path

from conformance.report.contents import Run

FORMATS = {"html": ".html", "json": ".json", "markdown": ".md", "junit": ".xml"}
"""Formats, and how the names of their files end."""


def format_of(path: Path) -> str:
    """Format of a file by the ending of its name."""
    for name, ending in FORMATS.items():
        if path.suffix == ending:
            return name
    raise ValueError(f"{path} ends with none of {', '.join(FORMATS.values())}")


def render(run: Run, format: str) -> str:
    """The report as a text."""
    # Each with what it needs: Matplotlib takes a second to import, and most runs draw nothing.
    match format:
        case "html":
            from conformance.report.html import render_html

            return render_html(run)
        case "json":
            from conformance.report.json import render_json

            return render_json(run)
        case "markdown":
            from conformance.report.markdown import render_markdown

            return render_markdown(run)
        case "junit":
            from conformance.report.junit import render_junit

            return render_junit(run)
        case _:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}; got {format!r}")
