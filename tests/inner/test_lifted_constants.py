"""Constants of a frozen graph are inputs again, and ops on packed weights take any."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from bnfx.inner.packed.lifted_constants import lift_constants
from bnfx.inner.packed.pack_program import PackingError
from bnfx.inner.packed.packed_ops import replace_in

ATEN = torch.ops.aten
# A kernel that oneDNN packed.
PACKED = torch.ones(4, 2, 3, 3).to_mkldnn()


def module() -> fx.GraphModule:
    """Reads a matrix twice, a packed kernel, and a body."""
    held = {"matrix": torch.randn(3, 2).t(), "kernel": PACKED, "body": nn.ReLU()}
    graph = fx.Graph()
    x, size = graph.placeholder("x"), graph.placeholder("size")
    kernel = graph.get_attr("kernel")
    twice = [graph.call_function(ATEN.add.Tensor, (x, graph.get_attr("matrix"))) for _ in range(2)]
    body = graph.get_attr("body")
    graph.output((*twice, kernel, body, size))
    return fx.GraphModule(held, graph)


def example(**shape_env: Any) -> torch.Tensor:
    fake: torch.Tensor = FakeTensorMode(**shape_env).from_tensor(torch.randn(2, 3))
    return fake


def test_constants_are_inputs_behind_those_that_are_there() -> None:
    made = module()
    matrix = made.matrix
    lifted = lift_constants(made, [example(), 3])
    names = [node.target for node in made.graph.find_nodes(op="placeholder")]
    assert names == ["x", "size", *lifted.values]
    assert {*lifted.values} == {"matrix", "kernel"}
    assert lifted.values["matrix"] is matrix
    assert not list(made.named_buffers())
    x, body = torch.ones(2, 3), made.body
    first, second, kernel, kept, size = made(x, 7, *lifted.values.values())
    assert torch.equal(first, x + matrix)
    assert torch.equal(second, x + matrix)
    assert kernel is PACKED
    assert kept is body
    assert size == 7
    assert not made._has_frozen_params


@pytest.mark.parametrize("shape_env", [{}, {"shape_env": ShapeEnv()}])
def test_their_examples_are_fake_and_of_fixed_sizes(shape_env: dict[str, Any]) -> None:
    made = module()
    lifted = lift_constants(made, [example(**shape_env), 3])
    found = dict(zip(lifted.values, lifted.examples, strict=True))
    assert [type(size) for each in lifted.examples for size in each.shape] == [int] * 6
    assert (found["matrix"].shape, found["matrix"].stride()) == ((2, 3), (1, 2))
    # Nothing but its shape is known of what oneDNN packed.
    assert (found["kernel"].shape, found["kernel"].layout) == ((4, 2, 3, 3), torch.strided)
    for node in made.graph.find_nodes(op="placeholder")[2:]:
        assert node.meta["val"] is found[str(node.target)]


def test_without_a_tensor_among_the_inputs_there_is_no_mode() -> None:
    with pytest.raises(PackingError, match="no input that is a tensor"):
        lift_constants(module(), [3, 4])


def called(target: Any, *args: Any, op: str = "call_function") -> fx.Graph:
    graph = fx.Graph()
    graph.output(graph.create_node(op, target, args))
    return graph


def read(graph: fx.Graph) -> tuple[str, tuple[Any, ...]]:
    replace_in(graph)
    call = next(iter(graph.nodes))
    return str(call.target), call.args


POINTWISE = torch.ops.mkldnn._linear_pointwise


@pytest.mark.parametrize(
    ("target", "args", "expected", "left"),
    [
        (torch.ops.mkl._mkl_linear, (1, 2, 3, None, 4), "bnfx.mkl_linear.default", 5),
        (torch.ops.mkl._mkl_linear.default, (1, 2, 3, 4, 5), "bnfx.mkl_linear.default", 5),
        (POINTWISE.default, (1, 2, None, "none", [], ""), "bnfx.onednn_linear.default", 3),
        (POINTWISE, (1, 2, 3, "none", [], ""), "bnfx.onednn_linear.default", 3),
        # What else oneDNN does on its way is none of what the op does.
        (POINTWISE.default, (1, 2, 3, "relu", [], ""), "mkldnn._linear_pointwise.default", 6),
        (POINTWISE.binary, (1, 2, 3, 4, "add"), "mkldnn._linear_pointwise.binary", 5),
        (ATEN.add.Tensor, (1, 2, 3, "none", [], ""), "aten.add.Tensor", 6),
        (ATEN.mm, (1, 2), "aten.mm", 2),
    ],
)
def test_which_ops_are_replaced(
    target: Any, args: tuple[Any, ...], expected: str, left: int
) -> None:
    assert read(called(target, *args)) == (expected, args[:left])


def test_only_calls_of_functions_are_ops() -> None:
    assert read(called("mkl::_mkl_linear", 1, 2, op="call_method"))[0] == "mkl::_mkl_linear"


@pytest.mark.parametrize("bias", [None, torch.randn(5)])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_the_ops_compute_what_they_stand_for(
    bias: torch.Tensor | None, shape: tuple[int, ...]
) -> None:
    x, weight = torch.randn(shape), torch.randn(5, 4)
    expected = nn.functional.linear(x, weight, bias)
    rows = x.numel() // 4
    mkl = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
    one_dnn = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    calls = [
        (torch.ops.bnfx.mkl_linear, (x, mkl, weight, bias, rows)),
        (torch.ops.bnfx.onednn_linear, (x, one_dnn, bias)),
    ]
    for op, args in calls:
        assert torch.allclose(op(*args), expected, atol=1e-5)
        fakes = [
            each
            if each is None or isinstance(each, int)
            else torch.empty(each.shape, device="meta")
            for each in args
        ]
        assert op(*fakes).shape == expected.shape
