"""What a user may do with a model: a folded class answers each script as the original does.

Each source has a class ``Net``, and ``script(net, x)``, which gives what is compared. A third
reader of the list of plain code found these, of which all folded.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import python_module, randomise
from torch import nn

import bnfx

SOURCES = Path(__file__).with_name("sources")
HEAD = (SOURCES / "head.txt").read_text() + (
    """
def pair(): return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
class Holder(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part
    def forward(self, x): return self.part(x)
"""
)
CASES = (SOURCES / "scripts.txt").read_text().strip("\n").split("\n---\n")
_NUMBER = itertools.count()


@pytest.fixture(autouse=True)
def _no_hooks_stay() -> Iterator[None]:
    yield
    nn.modules.module._global_forward_hooks.clear()


def _run(made: Any, net: nn.Module, x: torch.Tensor) -> list[Any]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing
        try:
            found = made.script(net, x.clone())
        except Exception as error:  # which the folded class must raise, too
            found = [f"{type(error).__name__}: {error}"]
    nn.modules.module._global_forward_hooks.clear()
    return list(found)


@pytest.mark.parametrize("code", CASES, ids=[c.partition("\n")[0].lstrip("# ") for c in CASES])
def test_a_script_gives_the_same(code: str) -> None:
    made = python_module(f"made_by_test_class_scripts_{next(_NUMBER)}", HEAD + code)
    net = randomise(made.Net()).double().eval()
    getattr(made, "prepare", lambda net: None)(net)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for inputs in ((), (x,)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", bnfx.FoldWarning)
            try:
                folded = bnfx.fold(net, *inputs, keep="module", verify=False)
            except bnfx.BnfxError:
                continue
        expected = _run(made, copy.deepcopy(net), x)
        for ours, theirs in zip(_run(made, folded, x), expected, strict=True):
            if isinstance(theirs, torch.Tensor):
                torch.testing.assert_close(ours, theirs)
            else:
                assert ours == theirs
