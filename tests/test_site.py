"""The site builds without a warning, and its figures are those that the repository draws."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.mark.heavy
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "trees"), str(DOCS), str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "site/api.html").read_text()
    assert 'id="bnfx.fold"' in api
    assert "never change" in api or "is not changed" in api


def test_each_page_is_in_the_site() -> None:
    """Pages that no list of contents names would be lost to readers."""
    index = (DOCS / "index.md").read_text()
    named = set(re.findall(r"<([\w-]+)>$", index, re.MULTILINE))
    assert named == {path.stem for path in DOCS.glob("*.md")} - {"index"}


def test_each_figure_is_drawn_by_a_script() -> None:
    drawn = "".join(path.read_text() for path in DOCS.glob("draw_*.py"))
    shown = {
        image
        for page in (ROOT / "README.md", *DOCS.glob("*.md"))
        for image in re.findall(r"\]\((?:docs/)?images/([\w.]+)\)", page.read_text())
    }
    assert shown == {path.name for path in (DOCS / "images").iterdir()}
    assert all(f'"{name}"' in drawn or f"images/{name}" in drawn for name in shown)
