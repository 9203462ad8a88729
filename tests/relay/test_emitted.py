"""What is written of a folded Relay function: which ops, in which layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import Expr, Make, module_of, tensor
from lifted import calls, function_of
from tvm import relay

from bnfx.passes.algebra import Conv, ConvTranspose, Source
from bnfx.passes.relay.emit import RelayEmitter, usual_kernel
from bnfx.passes.relay.rewrite import rewrite_module


def _conv(weight: tuple[int, ...], groups: int, last: bool) -> Conv:
    ones = (1,) * (len(weight) - 2)
    sides = ((0, 0),) * len(ones)
    source = Source("weight", weight, "float64")
    return Conv(source, None, ones, sides, ones, groups, channels_last=last)


def _transposed(weight: tuple[int, ...], groups: int, last: bool) -> ConvTranspose:
    ones = (1,) * (len(weight) - 2)
    sides = ((0, 0),) * len(ones)
    zeros = (0,) * len(ones)
    source = Source("weight", weight, "float64")
    return ConvTranspose(source, None, ones, sides, zeros, ones, groups, channels_last=last)


LAYOUTS = [
    (_conv((8, 4, 3, 3), 1, False), "OIHW", (8, 4, 3, 3)),
    (_conv((8, 4, 3, 3), 1, True), "HWIO", (3, 3, 4, 8)),
    (_conv((8, 1, 3, 3), 1, True), "HWIO", (3, 3, 1, 8)),  # one channel, which is no depth
    (_conv((8, 1, 3, 3), 4, False), "OIHW", (8, 1, 3, 3)),
    (_conv((8, 1, 3, 3), 4, True), "HWOI", (3, 3, 4, 2)),
    (_conv((8, 2, 3, 3), 4, True), "HWIO", (3, 3, 2, 8)),
    (_conv((8, 1, 3), 4, True), "WIO", (3, 1, 8)),
    (_conv((8, 1, 3, 3, 3), 4, True), "DHWIO", (3, 3, 3, 1, 8)),
    (_transposed((4, 8, 3, 3), 1, False), "IOHW", (4, 8, 3, 3)),
    (_transposed((4, 8, 3, 3), 1, True), "HWIO", (3, 3, 4, 8)),
    (_transposed((4, 1, 3, 3), 4, True), "HWIO", (3, 3, 4, 1)),
]


@pytest.mark.parametrize(("operator", "layout", "stored"), LAYOUTS)
def test_kernels_for_which_tvm_has_schedules(operator: Any, layout: str, stored: Any) -> None:
    kernel = usual_kernel(operator)
    assert kernel.layout == layout
    assert kernel.stored.weight(operator.weight).shape == stored
    assert RelayEmitter().stored(operator).shape == stored


def test_a_scalar_stays_one() -> None:
    """NumPy makes vectors of scalars where it lays them out."""
    emitter = RelayEmitter()
    assert emitter.constant(np.float64(2.0)).data.shape == ()
    turned = np.arange(6.0).reshape(2, 3).T
    np.testing.assert_array_equal(emitter.constant(turned).data.numpy(), turned)


def _rewritten(body: Expr) -> Any:
    return rewrite_module(module_of(body)).module["main"]


@pytest.mark.filterwarnings("error")
def test_functions_of_scalars() -> None:
    make = Make(0)
    x = make.input()
    assert calls(_rewritten(x * tensor(np.array(2.0)) * tensor(np.array(4.0)))) == ["multiply"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 4), ["nn.dense"]),
        ((2, 3, 4), ["expand_dims", "nn.batch_matmul"]),
        ((2, 3, 5, 4), ["nn.dense"]),
    ],
)
def test_products_of_matrices(shape: tuple[int, ...], expected: list[str]) -> None:
    make = Make(0)
    y = relay.nn.dense(
        relay.nn.dense(make.input(*shape), make.constant(16, 4)), make.constant(4, 16)
    )
    found = _rewritten(make.batch_norm(y, 4, axis=len(shape) - 1))
    assert calls(found) == [*expected, "nn.bias_add"]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_with_all_their_attributes(transposed: bool, spatial: int, last: bool) -> None:
    twos = (2,) * spatial
    sides = ((1, 0),) * spatial
    source = Source("weight", (4, 2, *twos), "float64")
    operator: Any
    if transposed:
        ones = (1,) * spatial
        operator = ConvTranspose(source, None, twos, sides, ones, ones, 2, channels_last=last)
    else:
        operator = Conv(source, None, twos, sides, twos, 2, channels_last=last)
    emitter, make = RelayEmitter(), Make(0)
    sizes = (5,) * spatial
    x = make.input(2, *sizes, 4) if last else make.input(2, 4, *sizes)
    weight = make.constant(*emitter.stored(operator).shape)
    call = function_of(emitter.operator(operator, x, weight, 2 + spatial)).body
    assert call.op.name == f"nn.conv{spatial}d{'_transpose' * transposed}"
    attrs = call.attrs
    assert tuple(map(int, attrs.strides)) == tuple(map(int, attrs.kernel_size)) == twos
    assert tuple(map(int, attrs.padding)) == (*(1,) * spatial, *(0,) * spatial)
    assert (int(attrs.groups), int(attrs.channels)) == (2, 4)
    axes = "DHW"[-spatial:]
    assert attrs.data_layout == (f"N{axes}C" if last else f"NC{axes}")
    assert tuple(map(int, attrs.dilation)) == ((1,) * spatial if transposed else twos)
    if transposed:
        assert tuple(map(int, attrs.output_padding)) == (1,) * spatial
