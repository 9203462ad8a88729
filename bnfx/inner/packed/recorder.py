"""Lets Inductor fold constants, and keeps how each came from the weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from bnfx.inner.packed import packed_ops
from bnfx.inner.packed.lifted_constants import LiftedConstants
from bnfx.inner.packed.pack_program import Layout, PackingError, PackProgram, Step, Value


class Recorder:
    """Stands in for Inductor's ``constant_fold``.

    Args:
        original: Inductor's own.
        weights: name -> the very tensor that the graph holds.
        own: what it holds beside them, which comes of no weight.
    """

    def __init__(
        self,
        original: Callable[..., None],
        weights: Mapping[str, torch.Tensor],
        own: Sequence[Any],
    ) -> None:
        self._original = original
        self._weights = weights
        self._own = own
        self._names = {id(tensor): name for name, tensor in weights.items()}
        self._made: dict[str, tuple[fx.Node, fx.GraphModule]] = {}  # attribute -> its node

    def here_only(self) -> Callable[..., None]:
        """In place of Inductor's: this thread's graph is recorded, other threads get Inductor's."""
        owner = threading.get_ident()

        def constant_fold(*args: Any, **kwargs: Any) -> None:
            mine = threading.get_ident() == owner
            (self.constant_fold if mine else self._original)(*args, **kwargs)

        return constant_fold

    def constant_fold(self, gm: fx.GraphModule, *args: Any, **kwargs: Any) -> None:
        """Fold as Inductor does, and keep what came of what."""
        before = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        before.graph_copy(gm.graph, copies)
        named = {old.name: new for old, new in copies.items()}
        old = {str(node.target): None for node in gm.graph.find_nodes(op="get_attr")}
        held = fx.GraphModule({name: getattr(gm, name) for name in old}, before)
        self._original(gm, *args, **kwargs)
        for node in gm.graph.find_nodes(op="get_attr"):
            name = str(node.target)
            if name not in old:  # it took the name of what it stands for
                self._made[name] = (named[node.name], held)

    def program(self, lifted: LiftedConstants) -> PackProgram:
        """What makes the constants from weights.

        Raises:
            PackingError: if the weights at hand do not give the constants that Inductor made, or
                nobody saw one of them made: it may hold numbers of the model.
        """
        constants: dict[str, torch.Tensor] = {}
        calls: dict[fx.Node, dict[fx.Node, Any]] = {}  # in order: what each reads, and its origin

        def origin(name: str, value: Any) -> Any:
            """The name of a weight, that of a constant, or the node that made it."""
            if name in self._made:
                return made_by(*self._made[name])
            if id(value) in self._names:
                return self._names[id(value)]
            if not any(value is each for each in self._own):
                raise PackingError(f"{name} was made by a pass of its own")
            constants[name] = value
            return _Own(name)

        def made_by(node: fx.Node, held: fx.GraphModule) -> Any:
            if node.op == "get_attr":
                name = str(node.target)
                return origin(name, getattr(held, name))
            if node not in calls:
                calls[node] = {each: made_by(each, held) for each in node.all_input_nodes}
            return node

        results = [origin(name, value) for name, value in lifted.values.items()]
        keys = [*self._weights, *map(_Own, constants), *calls]
        values = {key: Value(at) for at, key in enumerate(keys)}
        program = PackProgram(
            weights=tuple(self._weights),
            constants=tuple(constants.values()),
            steps=tuple(
                Step.of(node, {each: values[key] for each, key in reads.items()})
                for node, reads in calls.items()
            ),
            results=tuple(values[key] for key in results),
            layouts=tuple(map(Layout.of, lifted.values.values())),
        )
        self._check(program, lifted)
        return program

    def _check(self, program: PackProgram, lifted: LiftedConstants) -> None:
        with torch.utils._python_dispatch._disable_current_modes():
            again = program(self._weights)
            for (name, value), other in zip(lifted.values.items(), again, strict=True):
                opaque = name in self._made and _is_opaque(self._made[name][0])
                if not _same(value, other, by_content=not opaque):
                    raise PackingError(f"{name} cannot be made from the weights again")
        self._weights, self._own = {}, ()  # their numbers are not to be kept alive
        self._made = {}


@dataclass(frozen=True)
class _Own:
    """A constant of the graph's own, of no weight."""

    name: str


def _is_opaque(node: fx.Node) -> bool:
    """Whether it makes a buffer that is MKL's own affair, with bytes that mean nothing."""
    return packed_ops.op_name(node) == "mkl::_mkl_reorder_linear_weight"


def _same(one: torch.Tensor, other: torch.Tensor, by_content: bool) -> bool:
    if one.layout != other.layout or one.dtype != other.dtype:
        return False
    if not by_content:
        return True
    one, other = one.to_dense(), other.to_dense()  # what is packed has no other way to be read
    return bool(((one == other) | ((one != one) & (other != other))).all())
