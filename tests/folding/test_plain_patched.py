"""What stands in place of torch's or Python's own is not read: a folded class answers as before."""

from __future__ import annotations

import builtins
import copy
import functools
import inspect
import itertools
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from support import python_module, randomise
from torch import nn
from torch.nn import functional as F

import bnfx

_NUMBER = itertools.count()
_HEAD = """
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.seq = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    def forward(self, x): return self.seq(x)
    def probe(self, x): return """
_PEEK = "self.seq[0](x)"


def _peeks(*args: Any) -> Any:
    """The convolution's result, taken from who calls."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return eval(_PEEK, None, frame.f_back.f_locals)


def _opens(module: Any, x: Any) -> Any:
    return module[0](x)


def _clips(self: Any, x: Any) -> Any:
    return F.relu(F.conv2d(x, self.weight, self.bias))


def _clipped(x: Any, *args: Any) -> Any:
    return torch.conv2d(x, *args).relu()


def _skips(self: Any, x: Any) -> Any:
    for module in self:
        x = x + module(x)
    return x


PATCHED = {
    "a static method of tensors": (torch.Tensor, "spy", staticmethod(_peeks), "x.spy(x)"),
    "a function of tensors in C": (torch.Tensor, "spy", eval, f"x.spy({_PEEK!r})"),
    "a property of tensors": (torch.Tensor, "spy", property(lambda _: eval), f"x.spy({_PEEK!r})"),
    "an attribute of a function": (
        F.relu,
        "spy",
        eval,
        f"(F.relu, x)[0].spy({_PEEK!r})",
    ),
    "a function of Python's": (builtins, "sum", _peeks, "sum(x)"),
    "a checkpoint": (torch.utils.checkpoint, "checkpoint", _opens, "checkpoint(self.seq, x)"),
    "a checkpoint that says it wraps torch's": (
        *(torch.utils.checkpoint, "checkpoint"),
        *(functools.wraps(torch.utils.checkpoint.checkpoint)(_opens), "checkpoint(self.seq, x)"),
    ),
    "a layer's forward": (nn.Conv2d, "forward", _clips, "self.seq(x)"),
    "a container's forward": (nn.Sequential, "forward", _skips, "self.seq(x)"),
    "a method of all modules": (nn.Module, "peek", _peeks, "self.peek()"),
    "a function that layers call": (F, "conv2d", _clipped, "self.seq(x)"),
    "a function that those call": (torch, "batch_norm", lambda x, *_: x.relu(), "self.seq(x)"),
}


@pytest.mark.filterwarnings("ignore::bnfx.FoldWarning")
@pytest.mark.parametrize("what", PATCHED)
def test_a_patch_is_not_folded_away(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, name, value, code = PATCHED[what]
    monkeypatch.setattr(place, name, value, raising=False)
    net = python_module(f"made_by_test_plain_patched_{next(_NUMBER)}", _HEAD + code).Net()
    torch.manual_seed(0)
    net = randomise(net).double().eval()
    x = torch.randn(2, 3, 4, 4).double()
    with torch.no_grad():
        expected = [call(x) for call in (net, net.probe)]
        small = bnfx.fold(copy.deepcopy(net), x, keep="module", verify=False)
        torch.testing.assert_close([small(x), small.probe(x)], expected)
