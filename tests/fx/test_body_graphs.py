"""Graphs that ops run, made by hand: which they are, what they take, and what becomes of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fx.traced_nets import Noted, X
from support import relative
from torch import fx, nn
from torch._higher_order_ops import invoke_subgraph as _invoke  # noqa: F401  (registers it)
from torch._higher_order_ops import map as _map  # noqa: F401
from torch._higher_order_ops import scan as _scan  # noqa: F401
from torch._higher_order_ops import while_loop as _while  # noqa: F401

from bnfx.passes.fx.bodies.operands import bodies_of, run_instead
from bnfx.passes.fx.lowering.bind import fill
from bnfx.passes.fx.rewrite import Rewritten, rewrite
from bnfx.passes.report import Outcome

ops = torch.ops.higher_order
NAMES = ("w", "mean", "var", "gamma", "beta")
Body = Callable[..., tuple[Any, ...]]


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(4, generator=generator, dtype=torch.float64) + 0.5 for _ in NAMES[1:]]
    weight = torch.randn(4, 4, 1, 1, generator=generator, dtype=torch.float64)
    return dict(zip(NAMES, (weight, *drawn), strict=True))


def norm(x: Any, w: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> tuple[Any, ...]:
    return (F.batch_norm(F.conv2d(x, w), mean, var, gamma, beta, False, 0.1, 1e-5),)


def plain(x: Any, w: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> tuple[Any, ...]:
    return (F.conv2d(x, w).tanh(),)


def writing(x: Any, w: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> tuple[Any, ...]:
    mean.add_(1)
    return norm(x, w, mean, var, gamma, beta)


def _graph(body: Body) -> fx.GraphModule:
    module = fx.symbolic_trace(body)
    Noted(module).run(X, *(value.clone() for value in weights().values()))
    return module


class _Outer:
    """A graph that runs ``bodies``; its weights are inputs or attributes."""

    def __init__(self, bodies: dict[str, fx.GraphModule], sets: int, as_inputs: bool) -> None:
        self.root = nn.Module()
        for name, body in bodies.items():
            setattr(self.root, name, body)
        self.graph = fx.Graph()
        self.tensors: dict[str, torch.Tensor] = {}
        self.sets: list[list[fx.Node]] = []
        self.x = self.graph.placeholder("x")
        self.x.meta["val"] = X
        for at in range(sets):
            self.sets.append([])
            for name, value in weights(at).items():
                if as_inputs:
                    node = self.graph.placeholder(f"{name}{at}")
                    self.tensors[node.name] = value
                else:
                    self.root.register_buffer(f"{name}{at}", value)
                    node = self.graph.get_attr(f"{name}{at}")
                self.sets[-1].append(node)

    def run(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """The first output of an op, whose bodies are named in ``args`` by ``"self.NAME"``."""
        node = self.graph.call_function(target, self._named(args), kwargs)
        return self.graph.call_function(operator.getitem, (node, 0))

    def _named(self, args: Sequence[Any]) -> tuple[Any, ...]:
        prefix = "self."
        return tuple(
            self.graph.get_attr(each.removeprefix(prefix))
            if isinstance(each, str) and each.startswith(prefix)
            else each
            for each in args
        )

    def module(self, *outputs: fx.Node) -> fx.GraphModule:
        self.graph.output(outputs)
        return fx.GraphModule(self.root, self.graph)


def _same(module: fx.GraphModule, outer: _Outer, form: Any) -> Rewritten:
    """Rewritten, and what it gives is what ``module`` gives."""
    result = rewrite(module, outer.tensors, form=form)
    more: list[torch.Tensor] = []
    if form == "attributes":
        pairs = zip(result.slots, result.evaluate() or [], strict=True)
        fill(result.module, {slot.name: value for slot, value in pairs})
    elif form == "placeholders":
        more = result.evaluate() or []
    with torch.no_grad():
        for x in (X, -X):
            want = module(x, *outer.tensors.values())
            got = result.module(x, *outer.tensors.values(), *more)
            for mine, theirs in zip(got, want, strict=True):
                assert relative(mine, theirs) < 1e-13
    return result


def _calls(module: fx.GraphModule, target: Any) -> list[fx.Node]:
    return list(module.graph.find_nodes(op="call_function", target=target))


def _inputs(module: fx.GraphModule, name: str) -> str:
    body = module.get_submodule(name)
    assert isinstance(body, fx.GraphModule)
    return " ".join(node.name for node in body.graph.find_nodes(op="placeholder"))


def _branches(yes: Body, no: Body, as_inputs: bool) -> tuple[_Outer, fx.GraphModule]:
    outer = _Outer({"yes": _graph(yes), "no": _graph(no)}, 1, as_inputs)
    total = outer.graph.call_function(torch.sum, (outer.x,))
    test = outer.graph.call_function(operator.gt, (total, 0))
    given = (outer.x, *outer.sets[0])
    return outer, outer.module(outer.run(ops.cond, test, "self.yes", "self.no", given))


FORMS = ("attributes", "placeholders", "traced")


@pytest.mark.parametrize("form", FORMS)
def test_branches_take_the_same_operands(form: Any) -> None:
    for yes, no, folds in ((norm, plain, 1), (plain, norm, 1), (norm, norm, 2)):
        outer, module = _branches(yes, no, form != "attributes")
        result = _same(module, outer, form)
        assert result.report.count(Outcome.FOLDED) == folds
        (call,) = _calls(result.module, ops.cond)
        taken = [node.name for node in call.args[3]]  # type: ignore[union-attr, arg-type]
        if form == "traced":
            assert len(taken) == 6
            continue
        old = [] if folds == 2 else ["w0"]
        assert taken[: 1 + len(old)] == ["x", *old]
        assert len(taken) == 1 + len(old) + 2 * folds
        bodies = [str(each.target) for each in call.args[1:3]]  # type: ignore[union-attr]
        assert bodies == ["yes_folded", "no_folded"]
        first, second = (_inputs(result.module, name) for name in bodies)
        if folds == 2:
            assert first == "x conv2d_weight conv2d_bias _of_another_body_0 _of_another_body_1"
            assert second == "x _of_another_body_0 _of_another_body_1 conv2d_weight conv2d_bias"
        else:
            slots = "conv2d_weight conv2d_bias"
            others = "_of_another_body_0 _of_another_body_1"
            expected = (slots, others) if yes is norm else (others, slots)
            assert (first, second) == tuple(f"x w {each}" for each in expected)


@pytest.mark.parametrize("form", FORMS)
def test_what_a_body_writes_to(form: Any) -> None:
    _, module = _branches(writing, norm, form != "attributes")
    outer, _ = _branches(writing, norm, form != "attributes")
    report = rewrite(module, outer.tensors, form=form).report
    assert report.count(Outcome.FOLDED) == 0


def _regions(second: Body, form: Any, sets: int = 2) -> tuple[_Outer, fx.GraphModule]:
    """One body with weights of its own, or two that are alike, each run with other weights."""
    first = _graph(norm)
    bodies = {"one": first, "other": first if second is norm else _graph(second)}
    outer = _Outer(bodies, sets, form != "attributes")
    a = outer.run(ops.invoke_subgraph, "self.one", "one", outer.x, *outer.sets[0])
    b = outer.run(ops.invoke_subgraph, "self.other", "other", outer.x, *outer.sets[-1])
    return outer, outer.module(a, b)


@pytest.mark.parametrize("form", FORMS)
def test_bodies_stay_shared(form: Any) -> None:
    outer, module = _regions(norm, form)
    result = _same(module, outer, form)
    assert result.report.count(Outcome.FOLDED) == 2
    first, second = _calls(result.module, ops.invoke_subgraph)
    assert [str(call.args[0].target) for call in (first, second)] == [  # type: ignore[union-attr]
        "one_folded",
        "other_folded",
    ] or first.args[0].target == second.args[0].target  # type: ignore[union-attr]
    assert [call.args[1] for call in (first, second)] == [
        str(call.args[0].target)
        for call in (first, second)  # type: ignore[union-attr]
    ]
    names = [verdict.site.name for verdict in result.report.verdicts]
    assert len(set(names)) == 2


def test_one_of_several_that_has_nothing_to_fold() -> None:
    outer, module = _regions(plain, "placeholders")
    result = _same(module, outer, "placeholders")
    first, second = _calls(result.module, ops.invoke_subgraph)
    assert (first.args[1], second.args[1]) == ("one_folded", "other")
    assert len(second.args) == 8
    assert result.module.get_submodule("other") is module.get_submodule("other")


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
    outer = _Outer({}, 0, True)
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
    return outer.graph.call_function(target, outer._named(args), names), outer.root


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
