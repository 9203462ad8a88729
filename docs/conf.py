"""The site: ``make site`` builds docs/ with Sphinx, warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import bnfx  # noqa: E402

project = "bnfx"
author = "the maintainers of bnfx"
copyright = author
version = release = bnfx.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_site", "Thumbs.db"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 4
# Links to files of the repository (code, tests, examples) lead out of the site.
suppress_warnings = ["myst.xref_missing"]
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_title = f"bnfx {release}"
autodoc_typehints = "description"
autodoc_member_order = "bysource"


def setup(app: Any) -> None:
    """Mermaid's pictures are shown as their text."""
    app.add_lexer("mermaid", TextLexer)
