"""Which graph an op runs, and what it hands to it.

An op such as ``torch.cond`` names its bodies by ``get_attr`` nodes and hands operands to them. A
body sees nothing else of the graph around it, so what an operand is there tells whether a
placeholder of the body is a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from bnfx.passes.fx import private


@dataclass(frozen=True, eq=False)
class Body:
    """A graph that a node runs.

    Args:
        at: the position of its name among the node's arguments.
        path: its qualified name.
        module: the graph.
        operands: what each of its placeholders is in the graph around it.
        varying: how many of them, the first ones, are other values in later runs (what a loop
            carries, slices of what it walks along).
    """

    at: int
    path: str
    module: fx.GraphModule
    operands: tuple[object, ...]
    varying: int

    def pairs(self) -> list[tuple[fx.Node, object]]:
        """Each placeholder, with its operand."""
        return list(zip(self.module.graph.find_nodes(op="placeholder"), self.operands, strict=True))


@dataclass(frozen=True)
class _Form:
    """How an op names its bodies, and where their operands stand.

    Args:
        bodies: positions of the bodies' names.
        varying: the first of what bodies are called with: other values in later runs.
        operands: the rest of it.
        given: the arguments, with another rest.
    """

    bodies: tuple[int, ...]
    varying: Callable[[Sequence[Any]], Sequence[object]]
    operands: Callable[[Sequence[Any]], Sequence[object]]
    given: Callable[[Sequence[Any], Sequence[Any]], tuple[Any, ...]]


def _from(first: int, *bodies: int) -> _Form:
    """Operands are the arguments from ``first`` on."""
    return _Form(
        bodies,
        lambda args: (),
        lambda args: args[first:],
        lambda args, rest: (*args[:first], *rest),
    )


def _last_tuple(bodies: tuple[int, ...], *carried: int) -> _Form:
    """Operands are the elements of the last argument, behind those of the ``carried`` ones, which
    are other values in each run.
    """

    def varying(args: Sequence[Any]) -> Sequence[object]:
        return [each for position in carried for each in args[position]]

    return _Form(
        bodies,
        varying,
        lambda args: args[-1],
        lambda args, rest: (*args[:-1], tuple(rest)),
    )


# By the op's name, and the number of its arguments where that is fixed.
_FORMS: Mapping[str, tuple[_Form, int | None]] = {
    "invoke_subgraph": (_from(2, 0), None),
    "tag_activation_checkpoint": (_from(1, 0), None),
    "wrap_activation_checkpoint": (_from(1, 0), None),
    "wrap": (_from(1, 0), None),
    "cond": (_last_tuple((1, 2)), 4),
    "while_loop": (_last_tuple((0, 1), 2), 4),
    "map_impl": (_last_tuple((0,), 1), 3),
    "scan": (_last_tuple((0,), 1, 2), 4),
}


def bodies_of(node: fx.Node, module: nn.Module) -> tuple[Body, ...]:
    """The graphs that ``node`` runs; none where it is not known what it hands to them."""
    form = _form_of(node)
    if form is None:
        return ()
    found: list[Body] = []
    for at in form.bodies:
        name = node.args[at]
        if not isinstance(name, fx.Node) or name.op != "get_attr":
            return ()
        try:
            body = module.get_submodule(str(name.target))
        except AttributeError:
            return ()
        varying = form.varying(node.args)
        operands = (*varying, *form.operands(node.args))
        if not isinstance(body, fx.GraphModule):
            return ()
        if len(body.graph.find_nodes(op="placeholder")) != len(operands):
            return ()
        found.append(Body(at, str(name.target), body, operands, len(varying)))
    return tuple(found)


def run_instead(
    node: fx.Node, names: Mapping[int, fx.Node], dropped: Collection[int], more: Sequence[Any]
) -> None:
    """Make ``node`` run other bodies, with other operands.

    Args:
        names: what names each body now, by its position among the arguments.
        dropped: positions of operands, counted from the first, that bodies take no longer.
        more: the operands that they take behind those that are left.
    """
    form = _form_of(node)
    assert form is not None
    args = list(node.args)
    for at, name in names.items():
        args[at] = name
    if _name_of(node) == "invoke_subgraph":
        args[1] = str(names[0].target)  # by which compilers know one region from another
    first = len(form.varying(args))
    kept = [each for at, each in enumerate(form.operands(args), start=first) if at not in dropped]
    node.args = form.given(args, [*kept, *more])


def _form_of(node: fx.Node) -> _Form | None:
    form, count = _FORMS.get(_name_of(node), (None, None))
    if form is None or (count is not None and len(node.args) != count):
        return None
    if any(isinstance(value, fx.Node) for value in node.kwargs.values()):
        return None
    if node.kwargs.get("mutated_arg_indices"):
        return None
    return form


def _name_of(node: fx.Node) -> str:
    is_op = isinstance(node.target, private.HigherOrderOperator)
    return str(getattr(node.target, "__name__", "")) if is_op else ""
