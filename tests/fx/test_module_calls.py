"""What is known of a call of a leaf module: by its class, by what was done to it, by the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.modules import batchnorm
from torch.nn.modules import module as module_globals
from torch.nn.utils import parametrize

from bnfx.passes.fx.calls import modules
from bnfx.passes.fx.calls.call import Call
from bnfx.passes.fx.calls.modules import (
    Attribute,
    facts_of_leaf,
    has_hooks,
    is_registered,
    known_class,
    read_module,
    register_batch_norm,
)
from bnfx.passes.refusals import Refusal


class SameConv(nn.Conv2d):
    """Adds nothing to what it computes."""

    def extra(self) -> int:
        return 1


class OtherConv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


class OtherInside(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight.abs(), bias)


class OtherCall(nn.Conv2d):
    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        return super()._call_impl(*args, **kwargs) + 1


class OtherAttributes(nn.Conv2d):
    def __getattribute__(self, name: str) -> Any:
        return super().__getattribute__(name)


class SubReLU(nn.ReLU):
    pass


class Norm(nn.Module):
    """A BatchNorm of someone's own."""

    def __init__(self) -> None:
        super().__init__()
        self.eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        return x


class Registered(batchnorm._BatchNorm):
    def _check_input_dim(self, input: Tensor) -> None:
        pass


def _with(leaf: nn.Module, change: Callable[[nn.Module], object]) -> nn.Module:
    change(leaf)
    return leaf


def _patched(leaf: nn.Module, name: str = "forward") -> nn.Module:
    return _with(leaf, lambda module: setattr(module, name, lambda *args: args[0]))


def _nothing(*args: Any) -> None:
    return None


FACTS: list[tuple[nn.Module, str | None]] = [
    (nn.ReLU(), "relu"),
    (nn.Conv2d(1, 1, 1), "conv2d"),
    (nn.BatchNorm2d(1), "batch_norm"),
    (SameConv(1, 1, 1), "conv2d"),
    (OtherConv(1, 1, 1), None),
    (OtherInside(1, 1, 1), None),
    (OtherCall(1, 1, 1), None),
    (OtherAttributes(1, 1, 1), None),
    (SubReLU(), None),
    (Norm(), None),
    (_patched(nn.ReLU()), None),
    (_patched(nn.Conv2d(1, 1, 1)), None),
    (_patched(nn.Conv2d(1, 1, 1), "_conv_forward"), None),
    (_with(nn.ReLU(), lambda leaf: leaf.register_forward_hook(_nothing)), None),
    (_with(nn.ReLU(), lambda leaf: leaf.register_forward_pre_hook(_nothing)), None),
]


@pytest.mark.parametrize("at", range(len(FACTS)))
def test_facts_of_leaves(at: int) -> None:
    leaf, name = FACTS[at]
    facts = facts_of_leaf(leaf)
    assert (None if facts is None else facts.name) == name


@pytest.mark.parametrize(
    "register", ["register_module_forward_hook", "register_module_forward_pre_hook"]
)
def test_hooks_of_all_modules(register: str) -> None:
    leaf = nn.ReLU()
    assert not has_hooks(leaf)
    handle = getattr(module_globals, register)(_nothing)
    try:
        assert has_hooks(leaf)
        assert facts_of_leaf(leaf) is None
    finally:
        handle.remove()
    assert not has_hooks(leaf)


def test_registered_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "_registered", {})
    leaf = Registered(2).eval()
    assert facts_of_leaf(leaf) is None
    assert known_class(leaf) is None
    assert not is_registered(leaf)
    register_batch_norm(Registered)
    assert is_registered(leaf)
    assert known_class(leaf) is Registered
    facts = facts_of_leaf(leaf)
    assert facts is not None
    assert facts.name == "batch_norm"
    call = _read(leaf)
    assert isinstance(call, Call)
    assert call.kind == "batch_norm"
    conv = facts_of_leaf(nn.Conv2d(1, 1, 1))
    assert conv is not None
    assert conv.name == "conv2d"


def _read(leaf: nn.Module, *args: Any, value: Any = None, **kwargs: Any) -> Any:
    graph = fx.Graph()
    x = graph.placeholder("x")
    if not args and not kwargs:
        args = (x,)
    node = graph.call_module("leaf", args, kwargs)
    if value is not None:
        node.meta["val"] = torch.empty(value, device="meta")
    return read_module(node, leaf)


X = fx.Graph().placeholder("x")
REFUSED: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any], str | None]] = [
    (nn.ReLU(), (), {}, None),
    (Norm(), (), {}, None),
    (nn.Linear(1, 1), (X,), {}, ""),
    (nn.Linear(1, 1), (), {"input": X}, ""),
    (nn.Linear(1, 1), (), {"x": X}, "unknown-argument"),
    (nn.Linear(1, 1), (X, X), {}, "unknown-argument"),
    (nn.ConvTranspose2d(1, 1, 1), (X,), {"output_size": (2, 2)}, "unknown-argument"),
    (SameConv(1, 1, 1), (), {}, ""),
    (OtherConv(1, 1, 1), (), {}, "subclass"),
    (_patched(nn.Linear(1, 1)), (), {}, "subclass"),
    (nn.LazyBatchNorm2d(), (), {}, "subclass"),
    (
        _with(nn.Linear(1, 1), lambda leaf: leaf.register_forward_hook(_nothing)),
        (),
        {},
        "has-hooks",
    ),
    (
        _with(
            nn.Linear(1, 1),
            lambda leaf: parametrize.register_parametrization(leaf, "weight", nn.Tanh()),
        ),
        (),
        {},
        "subclass",
    ),
]


@pytest.mark.parametrize("at", range(len(REFUSED)))
def test_refused_modules(at: int) -> None:
    leaf, args, kwargs, code = REFUSED[at]
    found = _read(leaf, *args, **kwargs)
    if code is None:
        assert found is None
    elif code:
        assert isinstance(found, Refusal)
        assert found.code.value == code
    else:
        assert isinstance(found, Call)


def test_batch_norms() -> None:
    def read(leaf: nn.Module) -> Any:
        return _read(leaf).arguments

    norm = read(nn.BatchNorm2d(2, eps=0.5, momentum=0.25).eval())
    names = ("weight", "bias", "running_mean", "running_var")
    assert {name: norm[name] for name in names} == {
        name: Attribute(f"leaf.{name}") for name in names
    }
    assert (norm["training"], norm["eps"], norm["momentum"]) == (False, 0.5, 0.25)
    assert read(nn.BatchNorm1d(2))["training"] is True
    assert read(nn.BatchNorm3d(2, affine=False).eval())["weight"] is None
    assert read(nn.BatchNorm2d(2, track_running_stats=False).eval())["training"] is True


def test_instance_norms() -> None:
    """Without a batch, the first axis is that of channels."""
    leaf = nn.InstanceNorm2d(2, track_running_stats=True).eval()
    assert _read(leaf) is None
    assert _read(leaf, value=(2, 4, 4)) is None
    call = _read(leaf, value=(1, 2, 4, 4))
    assert call.kind == "instance_norm"
    assert call.arguments["use_input_stats"] is False
    assert _read(leaf.train(), value=(1, 2, 4, 4)).arguments["use_input_stats"] is True
    plain = _read(nn.InstanceNorm1d(2).eval(), value=(1, 2, 4))
    assert plain.arguments["use_input_stats"] is True


def test_linear_modules() -> None:
    linear = _read(nn.Linear(2, 3, bias=False))
    assert (linear.kind, linear.arguments["bias"]) == ("linear", None)
    assert linear.arguments.keys() >= {"input", "weight"}
    conv = _read(nn.Conv1d(2, 4, 3, 2, 1, 1, 2))
    assert (conv.kind, conv.spatial) == ("conv", 1)
    names = ("stride", "padding", "dilation", "groups")
    assert [conv.arguments[name] for name in names] == [(2,), (1,), (1,), 2]
    assert "hides_padding" not in conv.arguments
    up = _read(nn.ConvTranspose3d(2, 4, 3, 2, 1, 1))
    assert (up.kind, up.spatial, up.arguments["output_padding"]) == ("conv_transpose", 3, (1, 1, 1))
    reflected = _read(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")).arguments
    assert (reflected["padding"], reflected["hides_padding"]) == (0, True)
