"""What the documentation says is so: snippets run, tables match the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from processes import run
from support import HEAVY

from bnfx.passes.refusals import MEANINGS, Code
from bnfx.report.refusals_page import markdown

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


# Those of a page that compile for long, or that build with TVM; CI runs them.
LONG_PAGES = ("weights.md", "export.md", "tvm_relax.md", "openvino.md", "performance.md")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name in LONG_PAGES))
        for page in PAGES
        if SNIPPET.search(page.read_text())
    ],
)
def test_snippets_run(page: Path, tmp_path: Path) -> None:
    """All Python snippets of a page, one after the other, as a reader would type them."""
    script = tmp_path / "snippets.py"
    script.write_text("\n".join(SNIPPET.findall(page.read_text())))
    status, printed = run([str(script)], tmp_path)
    assert status == 0, printed


# Those of Relay run in its own environment, by tests/relay.
EXAMPLES = [path for path in sorted((ROOT / "examples").glob("*.py")) if "relay" not in path.name]


# What these show at length, tests of DDP, of branches and of CUDA builds show in short.
LONG = {
    **dict.fromkeys(("train_ddp.py", "merge_branches.py", "tvm_relax_cuda.py"), (HEAVY,)),
    **dict.fromkeys(("tvm_relax_cpu.py", "compile_resnet.py"), (pytest.mark.slow,)),
}


@pytest.mark.parametrize(
    "example",
    [pytest.param(p, id=p.name, marks=LONG.get(p.name, ())) for p in EXAMPLES],
)
def test_examples_run(example: Path, tmp_path: Path) -> None:
    status, printed = run([str(example)], tmp_path)
    assert status == 0, printed


def test_every_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Code)


def test_refusals_page_is_the_table() -> None:
    assert (ROOT / "docs/refusals.md").read_text() == markdown()


def test_links_lead_somewhere() -> None:
    broken = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_python_sources_stay_small() -> None:
    """One rule a file: a module that outgrows this wants to be two."""
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("bnfx", "passes")
        for path in (ROOT / folder).glob("**/*.py")
        if "bnfx/passes" not in str(path) and (lines := len(path.read_text().splitlines())) > 250
    }
    assert long == {}
