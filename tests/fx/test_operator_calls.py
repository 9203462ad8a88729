"""BatchNorms, convolutions and linear layers, by their arguments: what they are, or why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

from bnfx.passes.algebra import Conv, ConvTranspose, Dense, Scalar, Source
from bnfx.passes.fx.calls.call import ALGEBRA, Call
from bnfx.passes.fx.norm_numbers import NormCall
from bnfx.passes.fx.parameters.sources import Sources
from bnfx.passes.fx.roles.operators import read_affine_call, read_operator

GRAPH = fx.Graph()
X = GRAPH.placeholder("x")
SHAPES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("mean", "var", "gamma", "beta", "bias"), (4,)),
    **{
        "matrix": (4, 3),
        "rows": (4, 3, 3),
        "kernel": (4, 3, 3, 5),
        "long": (5,),
        "up": (4, 3, 2, 2),
    },
}
NODES = {name: GRAPH.placeholder(name) for name in SHAPES}


def _sources() -> Sources:
    tensors = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    return Sources(nn.Module(), tensors, {}, {}, [])


def _call(name: str, **given: Any) -> Call:
    """Arguments by name: those that name a parameter are it."""
    form = ALGEBRA[name]
    values = {k: NODES[v] if isinstance(v, str) and v in NODES else v for k, v in given.items()}
    return Call(form.kind, form.spatial, {**(form.signature or {}), "input": X, **values})


NORM = {"running_mean": "mean", "running_var": "var", "training": False}
# The refusal's code; none where it is an affine map.
NORMS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("batch_norm", NORM, []),
    ("batch_norm", {**NORM, "weight": "gamma", "bias": "beta", "eps": 1}, []),
    ("batch_norm", {**NORM, "training": True}, ["training-mode"]),
    ("batch_norm", {**NORM, "training": X}, ["dynamic-argument"]),
    ("batch_norm", {**NORM, "training": 0}, ["dynamic-argument"]),
    ("batch_norm", {**NORM, "running_mean": None}, ["no-running-statistics"]),
    ("batch_norm", {**NORM, "running_var": None}, ["no-running-statistics"]),
    ("batch_norm", {**NORM, "running_mean": X}, ["not-a-parameter"]),
    ("batch_norm", {**NORM, "running_var": X}, ["not-a-parameter"]),
    ("batch_norm", {**NORM, "weight": X, "bias": X}, ["not-a-parameter"] * 2),
    ("batch_norm", {**NORM, "eps": X}, ["dynamic-argument"]),
    ("batch_norm", {**NORM, "eps": True}, ["dynamic-argument"]),
    ("batch_norm", {**NORM, "running_var": "long"}, ["unsupported-form"]),
    ("instance_norm", {**NORM, "use_input_stats": False}, []),
    ("instance_norm", {**NORM, "use_input_stats": True}, ["training-mode"]),
    ("instance_norm", {"use_input_stats": True}, ["no-running-statistics"]),
]


@pytest.mark.parametrize("at", range(len(NORMS)))
def test_norms(at: int) -> None:
    name, given, expected = NORMS[at]
    affine, refusals = read_affine_call(_call(name, **given), _sources())
    assert [str(refusal.code.value) for refusal in refusals] == expected
    assert (affine is None) == bool(expected)


def test_numbers_for_reports() -> None:
    def read(**given: Any) -> NormCall:
        return NormCall.read(_call("batch_norm", **{**NORM, **given}), _sources())

    whole = read(weight="gamma", eps=0.5, momentum=1)
    assert (whole.gamma, whole.variance) == tuple(
        Source(name, (4,), "float32") for name in ("gamma", "var")
    )
    assert (whole.eps, whole.momentum) == (Scalar(0.5), 1)
    plain = read(momentum=None)
    assert (plain.gamma, plain.momentum) == (None, None)
    assert read(momentum=X).momentum is None


KERNEL = {"weight": "kernel"}
OPERATORS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("linear", {"weight": "matrix"}, []),
    ("linear", {"weight": "matrix", "bias": "bias"}, []),
    ("linear", {"weight": "matrix", "bias": X}, ["not-a-parameter"]),
    ("linear", {"weight": X, "bias": X}, ["not-a-parameter"] * 2),
    ("conv2d", KERNEL, []),
    ("conv1d", KERNEL, ["unsupported-form"]),
    ("conv2d", {"weight": "rows"}, ["unsupported-form"]),
    ("conv2d", {**KERNEL, "padding": "full"}, ["unknown-argument"]),
    ("conv2d", {**KERNEL, "padding": X}, ["dynamic-argument"]),
    ("conv2d", {**KERNEL, "padding": (1, X)}, ["dynamic-argument"]),
    ("conv2d", {**KERNEL, "padding": (1, 1, 1)}, ["unknown-argument"]),
    ("conv2d", {**KERNEL, "stride": (1, 1, 1)}, ["unknown-argument"]),
    ("conv2d", {**KERNEL, "stride": ()}, ["unknown-argument"]),
    ("conv2d", {**KERNEL, "dilation": X}, ["dynamic-argument"]),
    ("conv2d", {**KERNEL, "groups": X}, ["dynamic-argument"]),
    ("conv2d", {**KERNEL, "groups": 3}, ["unsupported-form"]),
    ("conv_transpose2d", {**KERNEL, "output_padding": X}, ["dynamic-argument"]),
    ("conv_transpose2d", {**KERNEL, "padding": X}, ["dynamic-argument"]),
]


@pytest.mark.parametrize("at", range(len(OPERATORS)))
def test_operators(at: int) -> None:
    name, given, expected = OPERATORS[at]
    linear, refusals = read_operator(_call(name, **given), _sources())
    assert [str(refusal.code.value) for refusal in refusals] == expected
    assert (linear is None) == bool(expected)


def test_the_rank_of_a_weight() -> None:
    _, refusals = read_operator(_call("conv1d", **KERNEL), _sources())
    assert [refusal.reason for refusal in refusals] == [
        "a 1-d convolution with a weight of (4, 3, 3, 5)"
    ]


def _operator(name: str, **given: Any) -> Any:
    linear, _ = read_operator(_call(name, **given), _sources())
    assert linear is not None
    assert linear.dtype == "float32"
    assert not linear.hides_padding
    return linear.operator


def test_what_is_read_of_an_operator() -> None:
    conv = _operator("conv2d", weight="kernel", bias="bias", stride=2, padding=(1, 2), dilation=[3])
    assert isinstance(conv, Conv)
    assert (conv.stride, conv.padding, conv.dilation) == ((2, 2), ((1, 1), (2, 2)), (3, 3))
    assert (conv.kernel, conv.groups) == ((3, 5), 1)
    assert conv.bias is not None
    assert _operator("conv2d", weight="kernel", padding="valid").padding == ((0, 0), (0, 0))
    assert _operator("conv2d", weight="kernel", padding="same").padding == ((1, 1), (2, 2))
    transposed = _operator(
        "conv_transpose2d", weight="up", stride=2, padding=1, output_padding=(0, 1), groups=2
    )
    assert isinstance(transposed, ConvTranspose)
    assert transposed.padding == ((1, 1), (1, 1))
    assert (transposed.stride, transposed.groups) == ((2, 2), 2)
    assert transposed.output_padding == (0, 1)
    dense = _operator("linear", weight="matrix")
    assert isinstance(dense, Dense)
    assert dense.bias is None


def test_hidden_padding() -> None:
    linear, _ = read_operator(_call("conv2d", weight="kernel", hides_padding=True), _sources())
    assert linear is not None
    assert linear.hides_padding
