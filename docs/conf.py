"""Settings of Sphinx: ``make docs``."""

from pathlib import Path

import kldiv_xp

project = "kldiv_xp"
author = "The kldiv_xp authors"
copyright = author
version = release = kldiv_xp.__version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx_design"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"torch.*|Tensor|Array")]  # types of libraries that are documented elsewhere

autodoc_typehints = "none"  # numpydoc's sections say more than the annotations
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "furo"
html_title = f"kldiv_xp {version}"
html_static_path: list[str] = []

# The conformance report of the committed recordings. `make docs` writes it before it calls Sphinx.
_report = Path(__file__).parents[1] / "build/report"
html_extra_path = [str(_report)] if _report.exists() else []
