"""What the extras of bnfx install, where a part of it cannot do without."""

from __future__ import annotations

import importlib.util

_PAGE = {"jinja2": "jinja2", "plotly": "plotly", "fast_sugiyama": "fast-sugiyama"}


def page_packages_missing() -> str | None:
    """Why no HTML report can be drawn here, and what to install; ``None`` if one can."""
    missing = [name for module, name in _PAGE.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return None
    are = "is" if len(missing) == 1 else "are"
    return (
        f"an HTML report needs {' and '.join(missing)}, which {are} not installed: "
        "pip install 'bnfx[report]' (Python 3.11 or newer)"
    )
