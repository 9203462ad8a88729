"""What is known to be torch's and Python's own, and to do no more than its name says."""

from __future__ import annotations

import collections
import math
import types
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from bnfx.folding.modules.plain import library
from bnfx.folding.modules.plain.data import held_tensors, is_constant, is_record
from bnfx.folding.modules.plain.library import (
    is_known,
    is_op,
    is_plain_attribute,
    is_plain_class,
    runs_in_order,
)


class Own(nn.Module):
    """No class of torch's."""


class Typed(NamedTuple):
    a: int
    b: int = 2


class Methodical(NamedTuple):
    a: int

    def twice(self) -> int:
        return self.a * 2


class Spy:
    """With a method that nobody reads."""

    __slots__ = ()

    def spy(self) -> None:
        raise NotImplementedError


def _record(**changes: Any) -> type:
    made = collections.namedtuple("made", "a b")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_named_tuples() -> None:
    defaulted = collections.namedtuple("defaulted", "a", defaults=(eval,))
    spied = _record()
    spied.__new__.__defaults__ = (eval,)
    assert all(map(is_record, (Typed, _record(), collections.namedtuple("none", ""))))
    for kind in (
        *(
            Methodical,
            defaulted,
            spied,
            tuple,
            int,
            3,
            (1, 2),
            Typed(1),
            type("Below", (Typed,), {}),
        ),
        *(_record(a=eval), _record(a=property(eval)), _record(spy=1), _record(_make=eval)),
        *(
            _record(__new__=eval),
            _record(__repr__=lambda self: ""),
            _record(_asdict=classmethod(eval)),
        ),
        type("Own", (tuple,), {"_fields": ("a",)}),
        *(type("Based", bases, dict(vars(_record()))) for bases in ((Spy,), (Spy, tuple))),
    ):
        assert not is_record(kind), kind


def test_constants() -> None:
    """A list may grow, and what is ``None`` now may become anything."""
    for value in (
        1,
        "a",
        (1, ("b",)),
        frozenset({1}),
        slice(None, 2),
        range(3),
        torch.Size([2]),
        int,
    ):
        assert is_constant(value), value
    for value in (None, [], {}, {1}, (1, []), slice([]), (None,), eval, nn.ReLU(), object()):
        assert not is_constant(value), value


def test_tensors_that_are_held() -> None:
    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    assert list(held_tensors([a, {"b": (b, 1)}, collections.OrderedDict(c=c), eval])) == [a, b, c]


class Fake(nn.Conv2d):
    """Says that it is torch's."""


Fake.__module__ = "torch.nn.modules.conv"


def test_classes_of_torch_and_python() -> None:
    for kind in (nn.Conv2d, nn.Module, object, dict, collections.OrderedDict, Path):
        assert is_known(kind), kind
    for kind in (Fake, Own, Typed, type("Gone", (), {"__module__": "gone"}), pytest.Item):
        assert not is_known(kind), kind
    assert all(map(is_plain_class, (nn.Conv2d, int, torch.Size, partial)))
    assert not any(map(is_plain_class, (Own, Fake, str, object, Path, 3, nn.ReLU())))


def test_a_class_of_torchs_that_was_patched_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (print, partial(print), lambda self: 1, staticmethod(len), property(lambda _: 1)):
        with monkeypatch.context() as patched:
            patched.setattr(nn.ReLU, "spy", value, raising=False)
            assert not is_known(nn.ReLU), value
    assert is_known(nn.ReLU)


def test_attributes_of_who_knows_what() -> None:
    for name in (
        "size",
        "relu",
        "T",
        "to",
        "float",
        "shape",
        "anything",
        "append",
        "split",
        "norm",
    ):
        assert is_plain_attribute(name), name
    for name in (
        *("_version", "_base", "_grad", "_anything", "__class__", "format", "format_map"),
        *("children", "modules", "apply", "forward", "eval", "init_weights", "reset_parameters"),
    ):
        assert not is_plain_attribute(name), name


def test_ops() -> None:
    library._ops.cache_clear()  # what was found before tells nothing of how it is found
    ops = torch.ops.aten
    for op in (
        torch.relu,
        F.relu,
        F.conv2d,
        math.sqrt,
        torch.fft.fft,
        torch.special.erf,
        ops.relu.default,
    ):
        assert is_op(op), op
    for op in (
        *(eval, len, nn.ReLU, types.SimpleNamespace(), None, torch.save, ops.relu, torch.no_grad),
        *(
            torch,
            nn.functional,
            torch.Tensor,
            type,
            F.handle_torch_function,
            F.boolean_dispatch,
            torch.compile,
            "a",
            torch.manual_seed,
        ),
    ):
        assert not is_op(op), op
    assert all(map(runs_in_order, (checkpoint, checkpoint_sequential)))
    assert not any(map(runs_in_order, (torch.relu, None, lambda checkpoint: 1)))
    assert is_op(torchvision.utils._log_api_usage_once)
    assert not runs_in_order(torchvision.utils._log_api_usage_once)
    assert all(map(is_op, (checkpoint, torch.is_grad_enabled, torch.jit.is_scripting)))
