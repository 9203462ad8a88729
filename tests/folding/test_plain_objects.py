"""What a model of plain code may hold and be made of, and what is told of one that may not."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import python_module
from torch import nn
from torch.nn.utils import parametrize

from bnfx.folding.modules.plain.module_uses import Use
from bnfx.folding.modules.plain.plain_model import PlainModel

_HEAD = (Path(__file__).with_name("sources") / "head_of_forms.txt").read_text()
_NET = """
class Net(Between):
    def __init__(self):
        super().__init__()
        self.c, self.b = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)
        self.data, self.none = nn.Sequential(nn.ReLU()), None
        self.register_buffer("empty", None)
    def forward(self, x): return self.b(self.c(x))
    def probe(self, x): return self.data, self.data(x)
"""
_FILE = vars(python_module("made_by_test_plain_objects", _HEAD + _NET))
Net = _FILE["Net"]
_TOLD = torch.ones(1)
_TOLD.spy = eval  # type: ignore[attr-defined]
_ALONE = torch.ones(1)
_OWNED = collections.OrderedDict(a=1)
_OWNED.owner = eval  # type: ignore[attr-defined]
HELD = [
    *(
        1,
        "a",
        None,
        torch.float32,
        {"a"},
        slice(1),
        {1: nn.Conv2d},
        [{"a": (1, 2)}, torch.Size([1])],
    ),
    *(_ALONE, [_ALONE, {"a": (_ALONE, 2)}], collections.OrderedDict(a=1), nn.Parameter(_ALONE)),
    *(torch.relu, torch.ops.aten.relu.default, _FILE["helper"], _FILE["Made"], math.sqrt),
    *(partial(torch.add, 1), partial(_FILE["helper"], n=3), partial(nn.Conv2d, 3)),
    *(partial(_FILE["Made"]), partial(partial(torch.add, 1), alpha=2)),
]
NOT_HELD = [
    *(eval, object(), iter([1]), _FILE["evil"], _FILE["told"], _FILE["strange"], nn.Module.train),
    *(_FILE["Evil"], _FILE["Odd"], _FILE["Config"], [eval], {"a": eval}, {1: [eval]}, {eval}),
    *(
        _OWNED,
        _TOLD,
        [_TOLD],
        {"a": _TOLD},
        {_ALONE: 1},
        {_ALONE},
        slice(_ALONE),
        slice(None, [eval]),
    ),
    *(partial(eval), partial(_FILE["evil"]), partial(_FILE["Evil"], 3), str, nn.functional),
    *(partial(torch.add, _ALONE), partial(torch.add, out=eval), torch.ops.aten.relu, [nn.ReLU()]),
    *(
        collections.Counter("a"),
        collections.defaultdict(list),
        collections.deque([1]),
        bytearray(2),
    ),
]


def _strange_with(value: object) -> str | None:
    net = Net()
    net.__dict__["held"] = value
    return PlainModel(net).strange


def _without_addresses(value: object) -> str:
    """Workers must find the same tests."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@pytest.mark.parametrize("value", HELD, ids=_without_addresses)
def test_what_a_model_may_hold(value: object) -> None:
    assert _strange_with(value) is None


@pytest.mark.parametrize("value", NOT_HELD, ids=_without_addresses)
def test_what_a_model_may_not_hold(value: object) -> None:
    assert _strange_with(value) is not None


class Odd(torch.Tensor):
    """A tensor of another class."""


class Table(dict):  # type: ignore[type-arg]
    """A table of another kind."""


def _hooked(net: Any) -> None:
    net.c.register_forward_hook(print)


def _patched(net: Any) -> None:
    net.c.forward = torch.relu


def _named(name: str, net: Any) -> None:
    net._modules[name] = nn.ReLU()


def _tabled(name: str, net: Any) -> None:
    net.__dict__[name] = Table(vars(net)[name])


def _with_an_attribute(net: Any) -> None:
    net.c.weight.spy = eval


def _odd_buffer(net: Any) -> None:
    net.register_buffer("odd", torch.ones(1).as_subclass(Odd))


def _odd_parameter(net: Any) -> None:
    net._parameters["odd"] = torch.ones(1).as_subclass(Odd)


CHANGES = [
    (_hooked, "c has hooks or a forward of its own"),
    (_patched, "c has hooks or a forward of its own"),
    (partial(_named, ""), "Net has a module whose name is no name"),
    (partial(_named, "a.b"), "Net has a module whose name is no name"),
    (partial(_tabled, "_modules"), "Net keeps what it has in a table of another kind"),
    (partial(_tabled, "_parameters"), "Net keeps what it has in a table of another kind"),
    (partial(_tabled, "_buffers"), "Net keeps what it has in a table of another kind"),
    (_with_an_attribute, "a tensor of c is of another class, or has attributes"),
    (_odd_buffer, "a tensor of Net is of another class, or has attributes"),
    (_odd_parameter, "a tensor of Net is of another class, or has attributes"),
]


@pytest.mark.parametrize(("change", "told"), CHANGES)
def test_what_is_told_of_a_model(change: Callable[[Any], None], told: str) -> None:
    net = Net()
    change(net)
    found = PlainModel(net)
    assert found.strange == told
    assert not found.exposed, "of code that is not plain nothing else is known"


def test_which_modules_are_exposed() -> None:
    """One by the name of something that ``nn.Module`` reads is none by that."""
    net = nn.Sequential(Net(), nn.TransformerEncoderLayer(4, 1, 4))
    net[1].extra = nn.ReLU()
    found = PlainModel(net)
    assert found.strange is None
    assert found.why_exposed("1.extra") is None
    assert {path for path in found.exposed if path[0] == "0"} == {"0.data"}
    assert found.why_exposed("0.data.0") == found.exposed["0.data"]
    assert "Net.probe" in found.exposed["0.data"]
    assert "self.data" in found.exposed["0.data"]
    assert found.why_exposed("0.c") is None
    assert found.exposed["1.linear1"] == (
        "TransformerEncoderLayer of torch may run or read linear1 by itself"
    )
    uses = [named.use for named in found.named(net[0], "data")]
    assert sorted(uses, key=str) == [Use.EXPOSED, Use.RUN]


def test_a_class_that_torch_makes_for_a_parametrization_is_torchs() -> None:
    net = Net()
    parametrize.register_parametrization(net.c, "weight", _FILE["Made"]())
    assert PlainModel(net).strange is None
    type(net.c).spy = staticmethod(eval)
    assert PlainModel(net).strange is not None


def test_torchscript_is_not_read() -> None:
    net = Net()
    with pytest.warns((FutureWarning, DeprecationWarning)):
        net.data = torch.jit.script(nn.Sequential(nn.ReLU()))
    assert PlainModel(net).strange is None
