"""Code that gets at a layer in a way that its text hardly shows: a folded class answers as before.

Each source has a class ``Net``. It is called, and its ``probe``, which no example shows.
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
HEAD = (SOURCES / "head.txt").read_text() + (SOURCES / "head_of_blocks.txt").read_text()
HELPERS = """
from torch import nn
NAME = "c"
def peek_c(m, x):
    return m.c(x)
def init_weights(m):
    return 2 if isinstance(m.b, nn.BatchNorm2d) else 3
"""
_NUMBER = itertools.count()
CODE = (SOURCES / "other_objects.txt").read_text().strip("\n").split("\n---\n")
# What an adversary found in the first list of what is plain: all of these folded.
HOLES = (SOURCES / "plain_holes.txt").read_text().strip("\n").split("\n---\n")
# And what was found when each guard was broken: what has another's name, and text of tensors.
HOLES += (SOURCES / "plain_replaced.txt").read_text().strip("\n").split("\n---\n")


python_module("kept_helpers", HELPERS)


def answers(net: Any, x: torch.Tensor) -> list[torch.Tensor]:
    calls = [net, net.probe] if hasattr(net, "probe") else [net]
    with torch.no_grad():
        return [torch.as_tensor(call(x)) for call in calls]


def _case(at: int, code: str) -> Any:
    """The fast suite runs each third; CI runs all."""
    marks = () if at % 3 == 0 else pytest.mark.slow
    return pytest.param(code, id=code.partition("\n")[0].lstrip("# "), marks=marks)


@pytest.fixture(autouse=True)
def _no_hooks_stay() -> Iterator[None]:
    yield
    nn.modules.module._global_forward_hooks.clear()


def _answers(net: Any, x: torch.Tensor) -> list[torch.Tensor]:
    found = answers(net, x)
    nn.modules.module._global_forward_hooks.clear()
    return found


@pytest.mark.parametrize(
    "code",
    [
        *(_case(at, code) for at, code in enumerate(CODE)),
        *(pytest.param(code, id=code.partition("\n")[0].lstrip("# ")) for code in HOLES),
    ],
)
def test_the_class_answers_as_before(code: str) -> None:
    net = python_module(f"made_by_test_class_answers_{next(_NUMBER)}", HEAD + code).Net()
    torch.manual_seed(0)
    net = net.double().eval()
    randomise(net)
    x = torch.randn(2, 3, 5, 5).double()
    expected = _answers(copy.deepcopy(net), x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = bnfx.fold(net, x, keep="module", verify=False)
    torch.testing.assert_close(_answers(small, x), expected)
    if "so that it folds" in code:
        assert not [m for m in (small.b, small.seq[1], small.block.b) if hasattr(m, "running_var")]
