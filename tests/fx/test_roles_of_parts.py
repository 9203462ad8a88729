"""Parts of a split, and arithmetic, by the way they are written."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import Capture
from torch import Tensor, fx, nn

from bnfx.passes.algebra import Expression, Scalar, Source
from bnfx.passes.crossing import Select
from bnfx.passes.fx.roles.arithmetic import read_arithmetic
from bnfx.passes.fx.roles.splits import SplitPart, is_split, split_part
from bnfx.passes.graph import Add, Affine, Node, Opaque, Product

aten = torch.ops.aten
X = torch.empty(6, 6, 4, device="meta")


def _input(value: Any = X, key: str = "val") -> fx.Node:
    node = fx.Graph().placeholder("x")
    node.meta = {} if value is None else {key: value}
    return node


def _call(target: Any, source: fx.Node, *args: Any, **kwargs: Any) -> fx.Node:
    """A call with the value that torch has for it."""
    node = source.graph.create_node(
        "call_method" if isinstance(target, str) else "call_function",
        target,
        (source, *args),
        kwargs,
    )
    function = getattr(Tensor, target) if isinstance(target, str) else target
    if all(not isinstance(each, fx.Node) for each in (*args, *kwargs.values())):
        node.meta["val"] = function(torch.empty_like(X), *args, **kwargs)
    return node


def _part(parts: fx.Node, index: Any) -> fx.Node:
    return parts.graph.call_function(operator.getitem, (parts, index))


SPLITS: list[tuple[Callable[[fx.Node], fx.Node], int, Select | None]] = [
    (lambda x: _call(torch.chunk, x, 3), 1, Select(0, 2, 4)),
    (lambda x: _call(torch.chunk, x, 3, 1), -1, Select(1, 4, 6)),
    (lambda x: _call(torch.chunk, x, 3, dim=-2), 0, Select(1, 0, 2)),
    (lambda x: _call("chunk", x, 3, axis=1), 1, Select(1, 2, 4)),
    (lambda x: _call("split", x, [1, 5], -2), 1, Select(1, 1, 6)),
    (lambda x: _call(aten.split_with_sizes.default, x, [1, 5], 1), 0, Select(1, 0, 1)),
    (lambda x: _call(torch.tensor_split, x, (2, 2), dim=1), 2, Select(1, 2, 6)),
    (lambda x: _call(torch.unbind, x), 3, Select(0, 3, 4, keep=False)),
    (lambda x: _call(torch.unbind, x, -1), 3, Select(2, 3, 4, keep=False)),
    # As many parts along this axis as the first is long.
    (lambda x: _call("unbind", x, dim=1), 3, Select(1, 3, 4, keep=False)),
    (lambda x: _call("unbind", x, axis=1), 3, Select(1, 3, 4, keep=False)),
    # Not followed by one another, or what they are is not known.
    (lambda x: _call(torch.tensor_split, x, (4, 1)), 1, None),
    (lambda x: _call(torch.relu, x), 1, None),
    (lambda x: x, 1, None),
]


@pytest.mark.parametrize("at", range(len(SPLITS)))
def test_parts_of_splits(at: int) -> None:
    write, index, expected = SPLITS[at]
    x = _input()
    found = split_part(_part(write(x), index))
    assert found == (None if expected is None else SplitPart(x, expected))


def test_whose_parts_are_told() -> None:
    x = _input()
    parts = _call(torch.chunk, x, 2, 1)
    assert is_split(parts)
    assert not is_split(x)
    assert split_part(parts) is None
    assert split_part(x.graph.call_method("getitem", (parts, 0))) is None
    assert split_part(x.graph.call_function(operator.mul, (parts, 0))) is None
    assert split_part(_part(parts, slice(1))) is None
    assert split_part(_part(parts, x)) is None
    assert split_part(x.graph.call_function(operator.getitem, ([parts], 0))) is None


def test_parts_of_what_is_not_known() -> None:
    def part(parts: fx.Node, **meta: Any) -> bool:
        parts.meta = meta
        return split_part(_part(parts, 0)) is not None

    halves = X.chunk(2)
    x, graph = _input(), fx.Graph()
    assert part(_call(torch.chunk, x, 2), example_value=halves)
    assert part(_call(torch.chunk, x, 2), val=list(halves))
    assert not part(_call(torch.chunk, x, 2))
    assert not part(_call(torch.chunk, x, 2), val=X)
    assert not part(_call(torch.chunk, x, 2), val=(halves[0], None))
    assert not part(_call(torch.chunk, _input(None), 2), val=halves)
    assert not part(_call(torch.chunk, x, 2, x), val=halves)
    assert not part(_call(torch.chunk, x, 2, dim=x), val=halves)
    assert not part(graph.call_function(torch.chunk, (), {"input": x, "chunks": 2}), val=halves)
    assert not part(graph.call_function(torch.chunk, (X, 2)), val=halves)


def test_parts_along_an_axis_by_numpys_name() -> None:
    """Rows, which are as many as the columns: a map of one is none of a column of the weight."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Any:
            one, *others = self.linear(x).t().unbind(axis=1)
            return one * 2.0 + 1.0, *others

    model, x = Rows().eval(), torch.randn(4, 3)
    options = {**Capture().options, "inner": "eager"}
    with torch.no_grad():
        for found, expected in zip(
            torch.compile(model, backend="bnfx", options=options)(x), model(x), strict=True
        ):
            torch.testing.assert_close(found, expected)


W = Source("w", (4, 1), "float32")
WEIGHT, OTHER = (fx.Graph().placeholder(name) for name in "wy")


def _arithmetic(
    target: Any, *args: Any, dtype: str | None = "float32", op: str = "call_function", **kwargs: Any
) -> tuple[Any, list[str]] | None:
    """The role, and what it reads: ``x``, ``y`` and a number of each row, in these places."""
    values = {
        WEIGHT: Node("w", Opaque(), [], rank=2, dtype=dtype, shape=(4, 1)),
        OTHER: Node("y", Opaque(), [], rank=2, dtype=dtype, shape=(4, 3)),
    }
    x = fx.Graph().placeholder("x")
    values[x] = Node("x", Opaque(), [], rank=2, dtype=dtype, shape=(4, 3))
    given = tuple(x if each == "x" else each for each in args)
    written = x.graph.create_node(op, target, given, kwargs)

    def constant(value: object) -> Expression | None:
        assert target is not torch.maximum, "it may be computed for nothing"
        return W if value is WEIGHT else None

    found = read_arithmetic(
        written,
        Node("z", Opaque(), [], rank=2, dtype=dtype, shape=(4, 3)),
        constant,
        values.__getitem__,
    )
    if found is None:
        return None
    role = found.role
    if isinstance(role, Affine):
        role = (role.map.scale, role.map.shift)
    return role, [each.name for each in found.inputs]


def _map(scale: float, shift: float) -> tuple[Any, list[str]]:
    return (Scalar(scale), Scalar(shift)), ["x"]


ROLES: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = [
    (operator.add, ("x", 2), {}, _map(1, 2)),
    (operator.add, (2, "x"), {}, _map(1, 2)),
    (operator.sub, ("x", 2), {}, _map(1, -2)),
    (operator.sub, (2, "x"), {}, _map(-1, 2)),
    (torch.rsub, ("x", 2), {}, _map(-1, 2)),
    (torch.rsub, ("x", 2), {"alpha": 3}, _map(-3, 2)),
    (operator.mul, ("x", 0.5), {}, _map(0.5, 0)),
    (operator.truediv, ("x", 2), {}, ((Scalar(1.0) / Scalar(2.0), Scalar(0.0)), ["x"])),
    (operator.neg, ("x",), {}, _map(-1, 0)),
    (operator.mul, ("x", WEIGHT), {}, ((W, Scalar(0.0)), ["x"])),
    (torch.add, ("x", 2), {"alpha": 3}, ((Scalar(1.0), Scalar(2.0) * 3.0), ["x"])),
    (operator.add, ("x", OTHER), {}, (Add((1.0, 1.0)), ["x", "y"])),
    (torch.sub, ("x", OTHER), {"alpha": 2}, (Add((1.0, -2.0)), ["x", "y"])),
    (torch.rsub, ("x", OTHER), {}, (Add((1.0, -1.0)), ["y", "x"])),
    (operator.mul, ("x", OTHER), {}, (Product(), ["x", "y"])),
    (torch.add, ("x", 2), {"alpha": OTHER}, None),
    (torch.add, ("x", 2), {"alpha": True}, None),
    (torch.add, ("x", 2), {"out": OTHER}, None),
    (torch.div, ("x", 2), {"rounding_mode": "floor"}, None),
    (torch.neg, (), {"input": OTHER}, None),
    (torch.neg, (2.0,), {}, None),
    (torch.add, ("x",), {"other": 2}, None),
    (torch.add, ("x", 2, OTHER), {}, None),  # an old signature: the number is alpha
    (operator.add, ("x", True), {}, None),
    (operator.add, (True, "x"), {}, None),
    (operator.add, ("x", [1.0]), {}, None),
    (operator.truediv, (1, "x"), {}, None),
    (operator.pow, ("x", 2), {}, None),
    (torch.maximum, ("x", OTHER), {}, None),
    (torch.cumsum, ("x", 0), {}, None),
]


@pytest.mark.parametrize("at", range(len(ROLES)))
def test_arithmetic(at: int) -> None:
    target, args, kwargs, expected = ROLES[at]
    assert _arithmetic(target, *args, **kwargs) == expected


@pytest.mark.parametrize("dtype", ["int64", "complex64", None])
def test_arithmetic_is_of_real_numbers(dtype: str | None) -> None:
    assert _arithmetic(operator.add, "x", 2, dtype=dtype) is None
    assert _arithmetic(operator.neg, "x", dtype=dtype) is None


def test_arithmetic_of_methods() -> None:
    assert _arithmetic("add", "x", 2, op="call_method") == _map(1, 2)
    assert _arithmetic("sub_", "x", 2, op="call_method") == _map(1, -2)
    assert _arithmetic("relu", "x", op="call_method") is None
