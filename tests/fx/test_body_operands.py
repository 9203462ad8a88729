"""Which graphs an op runs, and what they are handed; made by hand."""

from __future__ import annotations

from typing import Any

import pytest
from fx.body_graphs import Outer, ops
from torch import fx, nn

from bnfx.passes.fx.bodies.operands import bodies_of, run_instead


class _Patched:
    __name__ = "cond"

    def __call__(self, *args: Any) -> Any:
        return args


# An op, its arguments (bodies: a has two inputs, b one; n is no graph), and what is found.
READ: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any], str]] = {
    "cond": (ops.cond, ("x", "self.a", "self.a", ("x", 1)), {}, "1a0+2 2a0+2"),
    "cond, of three": (ops.cond, ("x", "self.a", "self.a"), {}, ""),
    "cond, of nobody's": (_Patched(), ("x", "self.a", "self.a", ("x", 1)), {}, ""),
    "cond, others": (ops.cond, ("x", "self.a", "self.b", ("x", 1)), {}, ""),
    "cond, no name": (ops.cond, ("x", "x", "self.a", ("x", 1)), {}, ""),
    "cond, a number": (ops.cond, ("x", 1, "self.a", ("x", 1)), {}, ""),
    "cond, missing": (ops.cond, ("x", "self.m", "self.a", ("x", 1)), {}, ""),
    "cond, no graph": (ops.cond, ("x", "self.n", "self.a", ("x", 1)), {}, ""),
    "loop": (ops.while_loop, ("self.a", "self.a", ("x",), (1,)), {}, "0a1+2 1a1+2"),
    "loop, all carried": (ops.while_loop, ("self.a", "self.a", ("x", 1), ()), {}, "0a2+2 1a2+2"),
    "map": (ops.map_impl, ("self.a", ("x",), (1,)), {}, "0a1+2"),
    "map, of four": (ops.map_impl, ("self.a", ("x",), (1,), ()), {}, ""),
    "scan": (ops.scan, ("self.a", ("x",), (1,), ()), {}, "0a2+2"),
    "region": (ops.invoke_subgraph, ("self.a", "id", "x", 1), {}, "0a0+2"),
    "region, of one": (ops.invoke_subgraph, ("self.b", "id", "x"), {}, "0b0+1"),
    "wrap": (ops.wrap, ("self.a", "x", 1), {}, "0a0+2"),
    "checkpoint": (ops.tag_activation_checkpoint, ("self.a", "x", 1), {"use": True}, "0a0+2"),
    "given by name": (ops.tag_activation_checkpoint, ("self.b", "x"), {"more": "x"}, ""),
    "mutated": (ops.wrap, ("self.b", "x"), {"mutated_arg_indices": "0"}, ""),
    "not mutated": (ops.wrap, ("self.b", "x"), {"mutated_arg_indices": ""}, "0b0+1"),
    "another op": (ops.flex_attention, ("self.b", "x"), {}, ""),
}


def _node(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[fx.Node, nn.Module]:
    outer = Outer({}, 0, True)
    for name, count in (("a", 2), ("b", 1)):
        body = fx.Graph()
        inputs = [body.placeholder(f"i{at}") for at in range(count)]
        body.output(tuple(inputs))
        setattr(outer.root, name, fx.GraphModule({}, body))
    outer.root.n = nn.ReLU()

    def given(value: Any) -> Any:
        return outer.x if value == "x" else value

    args = tuple(
        tuple(map(given, each)) if isinstance(each, tuple) else given(each) for each in args
    )
    names = {name: given(value) for name, value in kwargs.items()}
    return outer.graph.call_function(target, outer.named(args), names), outer.root


def test_an_input_is_no_name() -> None:
    node, root = _node(ops.wrap, ("self.b", "x"), {})
    (x,) = node.graph.find_nodes(op="placeholder")
    x.target = "b"
    node.args = (x, x)
    assert bodies_of(node, root) == ()


@pytest.mark.parametrize("name", READ)
def test_which_bodies_there_are(name: str) -> None:
    target, args, kwargs, expected = READ[name]
    found = bodies_of(*_node(target, args, kwargs))
    shown = (f"{b.at}{b.path}{b.varying}+{len(b.operands)}" for b in found)
    assert " ".join(shown) == expected
    for body in found:
        assert [operand for _, operand in body.pairs()] == list(body.operands)


@pytest.mark.parametrize(
    ("name", "dropped", "expected"),
    [
        ("cond", (), "x, m, a_1, (x, 1, 7)"),
        ("cond", (0,), "x, m, a_1, (1, 7)"),
        ("loop", (1,), "a, m, (x,), (7,)"),
        ("loop", (), "a, m, (x,), (1, 7)"),
        ("map", (0, 1), "a, (x,), (7,)"),
        ("region", (1,), "a, 'a', x, 7"),
        ("wrap", (0,), "a, 1, 7"),
    ],
)
def test_other_bodies_are_run(name: str, dropped: tuple[int, ...], expected: str) -> None:
    target, args, kwargs, found = READ[name]
    node, _ = _node(target, args, kwargs)
    at = 1 if "1a" in found else 0
    new = node.args[0] if at == 0 else node.graph.get_attr("m")
    assert isinstance(new, fx.Node)
    run_instead(node, {at: new}, dropped, [7])
    assert str(node.args) == f"({expected})"
