"""Calls in one form, whatever way they are written: functions, methods, ATen's ops and leaves."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fx.nodes import call_node
from torch import fx, nn

from bnfx.passes.fx.calls.call import Call, read_call
from bnfx.passes.fx.calls.structure import read_structure, squeezes
from bnfx.passes.refusals import Refusal

aten = torch.ops.aten
GRAPH = fx.Graph()
_node = functools.partial(call_node, GRAPH)
X, Y = GRAPH.placeholder("x"), GRAPH.placeholder("y")


def _structure(target: Any, *args: Any, **kwargs: Any) -> tuple[str, dict[str, Any]] | None:
    """The kind, and the arguments but for the input."""
    return _told(read_structure(_node(target, *args, **kwargs), nn.Module()))


def _told(call: Call | None) -> tuple[str, dict[str, Any]] | None:
    if call is None:
        return None
    assert call.arguments.get("input", X) is X
    return call.kind, {k: v for k, v in call.arguments.items() if k != "input"}


def _has(told: tuple[str, Mapping[str, Any]] | None, kind: str, **some: Any) -> bool:
    return told is not None and told[0] == kind and some.items() <= told[1].items()


def test_permutations_by_any_name() -> None:
    expected = ("permute", {"dims": (1, 0)})
    assert _structure("permute", X, 1, 0) == expected
    assert _structure("permute", X, (1, 0)) == expected
    assert _structure("permute", X, dims=(1, 0)) == expected
    assert _structure(torch.permute, X, (1, 0)) == expected
    assert _structure(torch.permute, X, dims=(1, 0)) == expected
    assert _structure(aten.permute.default, X, [1, 0]) == ("permute", {"dims": [1, 0]})
    assert _structure("permute", X, Y) == ("permute", {"dims": (Y,)})
    assert _structure("permute", X) == ("permute", {"dims": ()})  # of a number
    assert _structure("permute", X, 0) == ("permute", {"dims": (0,)})


def test_axes_by_numpys_names() -> None:
    expected = ("mean", {"dim": (2, 3), "keepdim": True, "dtype": None})
    assert _structure("mean", X, (2, 3), True) == expected
    assert _structure("mean", X, dim=(2, 3), keepdim=True) == expected
    assert _structure("mean", X, axis=(2, 3), keepdims=True) == expected
    assert _structure(torch.cat, (X, Y), axis=1) == ("cat", {"tensors": (X, Y), "dim": 1})
    assert _structure("mean", X, (2, 3), axis=1) is None


def test_what_is_no_such_call() -> None:
    assert _structure(torch.relu, X) == ("relu", {"inplace": False})
    assert _structure(torch.relu) is None
    assert _structure(torch.relu, input=X) is None
    assert _structure(torch.relu, X, out=Y) is None
    assert _structure(torch.tanh, X) is None
    assert _structure(torch.cumsum, X, 0) is None
    assert _structure(F.max_pool2d, X) is None
    assert _structure(F.max_pool2d, X, 2, 2, 0, 1, False, False, 1) is None
    assert _structure("flatten", X, Y) == ("reshape", {})


def test_dropout_by_any_name() -> None:
    assert _has(_structure(F.dropout, X, 0.5, False), "dropout", training=False)
    assert _has(_structure(F.dropout, X), "dropout", training=True)
    assert _has(_structure(F.alpha_dropout, X), "dropout", training=False)
    assert _has(_structure(torch.dropout, X, 0.5, False), "dropout", training=False)
    assert _has(_structure(aten.dropout.default, X, 0.5, False), "dropout", training=False)
    assert _has(_structure(aten.dropout, X, 0.5, True), "dropout", training=True)
    assert _structure(torch.dropout, X, train=False, p=0.5) is None


def test_resizing_by_any_name() -> None:
    assert _has(_structure(F.interpolate, X, (4, 4)), "interpolate", mode="nearest")
    bilinear = _structure(aten.upsample_bilinear2d.vec, X, [4, 4], False, None)
    assert _has(bilinear, "interpolate", mode="bilinear")


def test_squeezing() -> None:
    assert squeezes(_node("squeeze", X))
    assert squeezes(_node(torch.squeeze, X, 0))
    assert not squeezes(_node("unsqueeze", X, 0))
    assert not squeezes(X)


def _cast(target: Any, before: Any, after: Any, *args: Any) -> Call | None:
    """A cast of a value to another, both as torch would show them, or not at all."""
    x = fx.Graph().placeholder("x")
    node = x.graph.create_node("call_method", target, (x, *args))
    for each, value in ((x, before), (node, after)):
        if value is not None:
            each.meta["val"] = value
    return read_structure(node, nn.Module())


def test_casts_that_do_nothing() -> None:
    half, full = (torch.empty(2, dtype=t) for t in (torch.float16, torch.float32))
    meta = torch.empty(2, device="meta")
    found = _cast("float", full, full)
    assert found is not None
    assert found.kind == "identity"
    assert _cast("float", half, full) is None
    assert _cast("to", full, meta, "meta") is None
    assert _cast("float", None, full) is None
    assert _cast("float", full, None) is None
    node = _node("float", 2.0)
    node.meta["val"] = full
    assert read_structure(node, nn.Module()) is None


def _leaf(leaf: nn.Module, *args: Any, **kwargs: Any) -> tuple[str, dict[str, Any]] | None:
    root = nn.Module()
    root.add_module("leaf", leaf)
    node = GRAPH.create_node("call_module", "leaf", args if args or kwargs else (X,), kwargs)
    return _told(read_structure(node, root))


def test_leaves() -> None:
    assert _leaf(nn.ReLU()) == ("relu", {"inplace": False})
    assert _leaf(nn.ReLU(), input=X) is None
    assert _leaf(nn.ReLU(), X, Y) is None
    assert _leaf(nn.ReLU(), X, inplace=True) is None
    assert _leaf(nn.Tanh()) is None
    assert _leaf(nn.Module()) is None
    assert _leaf(nn.Flatten()) == ("reshape", {})
    assert _leaf(nn.Identity()) == ("identity", {})
    assert _has(_leaf(nn.Dropout().eval()), "dropout", training=False)
    assert _has(_leaf(nn.Dropout()), "dropout", training=True)
    pool = _leaf(nn.MaxPool2d(3, 2, 1, return_indices=True))
    assert _has(pool, "max_pool", kernel_size=3, stride=2, padding=1, return_indices=True)
    mean = _leaf(nn.AvgPool2d(3, divisor_override=2, ceil_mode=True))
    assert _has(mean, "avg_pool", divisor_override=2, ceil_mode=True, count_include_pad=True)
    assert _has(_leaf(nn.PixelShuffle(2)), "pixel_shuffle", factor=2)
    assert _has(_leaf(nn.PixelUnshuffle(3)), "pixel_unshuffle", factor=3)
    assert _has(_leaf(nn.ChannelShuffle(4)), "channel_shuffle", factor=4)
    assert _has(_leaf(nn.Upsample(4, mode="nearest-exact")), "interpolate", mode="nearest-exact")


def test_leaves_that_pad() -> None:
    assert _leaf(nn.ZeroPad2d(1)) == ("pad", {"pad": (1,) * 4, "mode": "constant", "value": 0.0})
    constant = _leaf(nn.ConstantPad1d(1, 2.5))
    assert constant == ("pad", {"pad": (1, 1), "mode": "constant", "value": 2.5})
    for kind, mode in (
        (nn.ReflectionPad1d, "reflect"),
        (nn.ReplicationPad1d, "replicate"),
        (nn.CircularPad1d, "circular"),
    ):
        assert _leaf(kind(1)) == ("pad", {"pad": (1, 1), "mode": mode, "value": None})


NORM = (X, Y, Y, Y, Y)
# The arguments' names in order, or why they do not fit.
CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any], str | None]] = [
    (F.conv2d, (X, Y), {}, "conv"),
    (F.conv2d, (X,), {"weight": Y}, "conv"),
    (aten.conv2d.default, (X, Y), {}, "conv"),
    (F.linear, (X, Y, None), {}, "linear"),
    (F.batch_norm, (X, Y, Y), {}, "batch_norm"),
    (torch.batch_norm, (*NORM, False, 0.1, 1e-5, True), {}, "batch_norm"),
    (aten.batch_norm.default, (*NORM, False, 0.1, 1e-5, True), {}, "batch_norm"),
    (torch.relu, (X,), {}, None),
    (lambda x: x, (X,), {}, None),
    (F.conv2d, (X,), {}, "no argument 'weight'"),
    (F.conv2d, (X, Y, None, 1, 0, 1, 1, 1), {}, "8 arguments"),
    (F.conv2d, (X, Y), {"out": Y}, "an argument 'out'"),
    (F.conv2d, (X, Y), {"weight": Y}, "an argument 'weight'"),
    (F.linear, (X, Y), {"axis": 1}, "an argument 'axis'"),
    (torch.batch_norm, (X, Y, Y), {}, "no argument 'running_mean'"),
]


@pytest.mark.parametrize("at", range(len(CALLS)))
def test_calls(at: int) -> None:
    target, args, kwargs, expected = CALLS[at]
    found = read_call(_node(target, *args, **kwargs))
    if isinstance(found, Refusal):
        assert expected is not None
        assert found.reason.endswith(f"has {expected}")
    else:
        assert (None if found is None else found.kind) == expected


def test_which_statistics_come_first() -> None:
    """ATen's ops and torch's have the affine parameters there."""
    means = {
        target: read_call(_node(target, X, Y, 1, 2, 3, False, 0.1, 1e-5, *rest))
        for target, rest in (
            (F.batch_norm, ()),
            (torch.batch_norm, (True,)),
            (aten.batch_norm, (True,)),
            (aten.batch_norm.default, (True,)),
        )
    }
    found = {call.arguments["running_mean"] for call in means.values() if isinstance(call, Call)}
    assert found == {Y, 2}
    first = means[F.batch_norm]
    assert isinstance(first, Call)
    assert first.arguments["running_mean"] is Y
    assert first.order[:2] == ("input", "running_mean")


def test_methods_are_no_operators() -> None:
    assert read_call(_node("linear", X, Y)) is None
    assert read_call(_node("conv2d", X, Y)) is None
    assert read_call(_node(operator.matmul, X, Y)) is None
    assert read_call(X) is None
