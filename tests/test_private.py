"""Private names of torch may vanish: each costs a feature, said in a sentence, or less speed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import run_apart

CHECKOUT = Path(__file__).parents[1]
MODULES = ("bnfx/torch_private.py", "passes/fx/private.py")
SHAPES = "torch.fx.experimental.symbolic_shapes"


def _names() -> list[str]:
    """What both modules look for."""
    text = "".join((CHECKOUT / path).read_text() for path in MODULES)
    return [
        name.replace("{_SHAPES}", SHAPES) for name in re.findall(r'find\(f?"(\S+?:\w+)"\)', text)
    ]


NAMES = _names()
PAGE = (CHECKOUT / "docs" / "private-torch.md").read_text()
# Hides names from bnfx, and from nobody else: torch uses import statements.
PROGRAM = """
import importlib, sys, warnings
warnings.filterwarnings("error", category=UserWarning, module="bnfx")
real, hidden = importlib.import_module, set(sys.argv[1:])

class Without:
    def __init__(self, module):
        self._module = module
    def __getattr__(self, name):
        if f"{self._module.__name__}:{name}" in hidden:
            raise AttributeError(name)
        return getattr(self._module, name)

def find(name, *rest, **more):
    found = real(name, *rest, **more)
    return Without(found) if any(each.startswith(f"{name}:") for each in hidden) else found

importlib.import_module = find
import bnfx, bnfx.backend, bnfx.demo, torch
from torch import nn
from bnfx.passes.fx import private
importlib.import_module = real

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
nn.init.normal_(model[1].weight)
nn.init.normal_(model[1].running_mean)
model, x = model.eval().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
reports = []
with torch.no_grad():
    options = {"inner": "eager", "report": reports.append}
    compiled = torch.compile(model, backend="bnfx", options=options)
    assert (compiled(x) - model(x)).abs().max() < 1e-12
    print("compiled", reports[0].count("folded"))
    model[1].weight.mul_(2)
    assert (compiled(x) - model(x)).abs().max() < 1e-12
    for keep in ("module", "graph"):
        try:
            folded = bnfx.fold(model, x, keep=keep)
        except bnfx.CaptureError as error:
            print(keep, "refused:", error)
        else:
            assert (folded(x) - model(x)).abs().max() < 1e-12
            print(keep, "folded")
    program = torch.export.export(model, (x,))
    assert (bnfx.fold(program).module()(x) - model(x)).abs().max() < 1e-12
    print("program", bnfx.explain(program).count("folded"))
try:
    torch.compile(model, backend="bnfx", options={"weihgts": "live"})(x)
except bnfx.OptionError as error:
    print("option", error)
except Exception as error:
    assert "weights" in str(error), error
    print("option", type(error).__name__)
a = torch.zeros(4, 4)
assert private.memory(a) == private.memory(a[1:])
with torch.autocast("cpu"), private.without_autocast():
    assert (a @ a).dtype == torch.float32
print(private.fills_its_memory(a.T), private.fake_mode_of([a]))
"""


Run = Callable[..., list[str]]


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Run:
    def run(*names: str) -> list[str]:
        done = run_apart(["-c", PROGRAM, *names], tmp_path_factory.mktemp("without"))
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.fixture(scope="module")
def whole(without: Run) -> list[str]:
    return without()


def test_nothing_is_missing_here(whole: list[str]) -> None:
    assert whole[0] == "compiled 1"
    assert whole[1:4] == ["module folded", "graph folded", "program 1"]
    assert whole[-1] == "True None"


@pytest.mark.heavy
@pytest.mark.parametrize("name", NAMES)
def test_one_is_missing(name: str, without: Run, whole: list[str]) -> None:
    lines = without(name)
    assert lines[0] == "compiled 1"
    for line in lines[1:3]:
        missing = "torch \\S+ has no \\w+, by which bnfx finds shapes: use"
        assert line.endswith(" folded") or re.search(f"refused: .*{missing}", line), line
    assert lines[3] == whole[3]


def test_all_are_missing(without: Run) -> None:
    lines = without(*NAMES)
    assert lines[0] == "compiled 1"
    assert lines[-1] == "False None"


def test_the_page_lists_each() -> None:
    assert len(NAMES) >= 12
    for name in NAMES:
        assert f"`{name.replace(':', '.')}`" in PAGE, name


def test_no_other_file_imports_a_private_name() -> None:
    """But those that are looked up where they are used, which the page lists too."""
    pattern = re.compile(
        r"^(?:from (torch\._\S+|torch\.fx\.experimental\S*) import|import (torch\._\S+))"
    )
    for path in [*(CHECKOUT / "bnfx").rglob("*.py"), *(CHECKOUT / "passes").rglob("*.py")]:
        place = path.relative_to(CHECKOUT).as_posix()
        if place in MODULES or place.startswith(("bnfx/passes", "bnfx/bench")):
            continue
        for line in path.read_text().splitlines():
            found = pattern.match(line)
            if found:
                assert f"`{place}`" in PAGE, f"{place}: {line}"
