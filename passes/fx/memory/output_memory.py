"""What of a captured graph's outputs lies in the same memory, and where in it.

A caller may write to one output and look at another. Compilers keep neither that two outputs lie in
one memory, nor that they do not (Inductor merges equal ones, drops copies, and lays the base of a
view out anew), and a view with gaps gets other strides. So a compiler is given no such view: it is
asked for the value whose memory it lies in, and the views are made of that after each call. What
shares memory with an argument, or requires gradients, is left to AOTAutograd: it makes such views
itself, as autograd knows them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from bnfx.passes.fx.calls.call import Call, read_call
from bnfx.passes.fx.lowering.bind import copy_of
from bnfx.passes.fx.memory.aliasing import written_by
from bnfx.passes.fx.memory.sizes_at_call import Numbers, SizesAtCall
from bnfx.passes.fx.memory.storages import bytes_of, form_of, is_whole, known_value, memory_of
from bnfx.passes.fx.memory.strides import is_dense
from bnfx.passes.fx.metadata import value_of
from bnfx.passes.fx.private import fills_its_memory
from bnfx.passes.fx.sites import names_batch_norm

_GIVEN = ("placeholder", "get_attr")


@dataclass(frozen=True)
class Place:
    """Where in its memory a value lies.

    Args:
        numbers: gives its sizes, then its strides, then its offset, for the arguments of a call.
    """

    dtype: torch.dtype
    dims: int
    numbers: Numbers


@dataclass(frozen=True)
class View:
    """An output that lies in the memory of another value, which the graph returns in its stead.

    Args:
        base: where that is among the outputs of the graph without views.
        part: the place of the view.
    """

    base: int
    part: Place


@dataclass(frozen=True)
class OutputMemory:
    """What is to be made of a graph's outputs.

    Args:
        module: the graph without the views; the very graph, if there are none.
        outputs: for each output of the original, which one of ``module`` it is, or a view of it.
        own: the outputs of ``module`` that lie in memory of their own, each in another, and their
            places, where these are known.
        arguments: those that a compiler might return in place of one of these.
    """

    module: fx.GraphModule
    outputs: tuple[int | View, ...]
    own: Mapping[int, Place | None]
    arguments: tuple[int, ...]

    @property
    def is_kept(self) -> bool:
        """Whether no compiler can get it wrong."""
        same = self.outputs == tuple(range(len(self.outputs)))
        return same and len(self.own) + len(self.arguments) < 2

    @staticmethod
    def of(module: fx.GraphModule) -> OutputMemory:
        """What the metadata of ``module`` tells, which Dynamo left; ``module`` is untouched."""
        *_, output = module.graph.nodes
        returned = output.args[0]
        if not isinstance(returned, list | tuple):
            return OutputMemory.unread(module)
        return _Reading(module, returned).result()

    @staticmethod
    def unread(module: fx.GraphModule) -> OutputMemory:
        """Of outputs about which nothing is known."""
        return OutputMemory(module, (), {}, ())


class _Reading:
    def __init__(self, module: fx.GraphModule, returned: Sequence[Any]) -> None:
        self._module = module
        self._returned = returned
        self._placeholders = module.graph.find_nodes(op="placeholder")
        self._sizes = SizesAtCall([node.meta.get("example_value") for node in self._placeholders])
        self._lying_in: dict[object, list[fx.Node]] = {}  # memory -> what lies in it, in order
        for node in module.graph.nodes:
            if (where := memory_of(node)) is not None:
                self._lying_in.setdefault(where, []).append(node)
        self._fresh: dict[object, list[fx.Node]] = {}  # memory of no argument -> outputs in it
        for node in _nodes(returned):
            where = memory_of(node)
            if where is not None and self._lying_in[where][0].op not in _GIVEN:
                self._fresh.setdefault(where, []).append(node)

    def result(self) -> OutputMemory:
        bases = {where: self._base(where, nodes) for where, nodes in self._fresh.items()}
        instead = {
            node: base
            for where, nodes in self._fresh.items()
            if (base := bases[where]) is not None
            for node in nodes
        }
        if not instead:
            kept, module = list(self._returned), self._module
            outputs: list[int | View] = list(range(len(kept)))
        else:
            kept, outputs = [], []
            for value in self._returned:
                base = instead.get(value, value)
                at = next((i for i, each in enumerate(kept) if each is base), len(kept))
                kept[at:] = kept[at:] or [base]
                same = base is value or value_of(base) is value_of(value)  # ``relu_(y), y``
                outputs.append(at if same else self._view(at, value))
            module = _returning(self._module, kept)
        alone = {nodes[0] for nodes in self._fresh.values() if len(nodes) == 1} - {*instead}
        alone |= {*instead.values()}
        own = {at: value for at, value in enumerate(kept) if value in alone}
        arguments = sorted({at for value in own.values() for at in self._may_be(value)})
        places = {at: self._place(value) for at, value in own.items()}
        return OutputMemory(module, tuple(outputs), places, tuple(arguments))

    def _base(self, where: object, outputs: Sequence[fx.Node]) -> fx.Node | None:
        """What to ask for in place of these outputs; ``None`` if they are right as they are, or
        nothing in the graph is all of that memory.
        """
        if len(outputs) == 1 and fills_its_memory(known_value(outputs[0])):
            return None
        whole = self._lying_in[where][0]
        if self._is_misread or not is_whole(known_value(whole)):
            return None
        if any(self._place(node) is None for node in (whole, *outputs)):
            return None
        if any(known_value(node).requires_grad for node in self._lying_in[where]):
            return None
        same = [node for node in self._lying_in[where] if form_of(node) == form_of(whole)]
        return next((node for node in same if node in outputs), same[-1])

    def _view(self, at: int, value: fx.Node) -> View:
        part = self._place(value)
        assert part is not None, "what has no place was not replaced"
        return View(at, part)

    def _place(self, node: fx.Node) -> Place | None:
        value = known_value(node)
        if value.is_conj() or value.is_neg():
            return None
        numbers = self._sizes.of((*value.shape, *value.stride(), value.storage_offset()))
        return None if numbers is None else Place(value.dtype, value.dim(), numbers)

    @functools.cached_property
    def _is_misread(self) -> bool:
        """Whether fake tensors tell wrong strides: BatchNorm gives a dense output, as they do not
        know.
        """
        norms = (node for node in self._module.graph.nodes if names_batch_norm(node, self._module))
        values = (value_of(node) for node in norms)
        return any(value is not None and not is_dense(value) for value in values)

    def _may_be(self, output: fx.Node) -> Iterator[int]:
        """The arguments that a compiler might return in its place, or parts of them."""
        seen: set[fx.Node] = set()
        stack = [output]
        while stack:
            node = stack.pop()
            call = read_call(node)
            if node in seen or (isinstance(call, Call) and "norm" not in call.kind):
                continue  # what a convolution gives is no part of what it is given
            seen.add(node)
            stack.extend(node.all_input_nodes)
            if node.op == "placeholder" and bytes_of(node) >= bytes_of(output):
                yield self._placeholders.index(node)


def _nodes(values: Iterable[Any]) -> Iterable[fx.Node]:
    return dict.fromkeys(each for each in values if isinstance(each, fx.Node))


def _returning(module: fx.GraphModule, values: Sequence[Any]) -> fx.GraphModule:
    """A copy of ``module`` that returns these of its values, without what only the others read."""
    copied = copy_of(module)
    named = {node.name: node for node in copied.graph.nodes}
    *_, output = copied.graph.nodes
    unread = list(output.all_input_nodes)
    output.args = (fx.node.map_arg(tuple(values), lambda node: named[node.name]),)
    while unread:
        node = unread.pop()
        if not node.users and node.op != "placeholder" and not any(written_by(node, copied)):
            unread.extend(node.all_input_nodes)
            copied.graph.erase_node(node)
    copied.graph.lint()
    copied.recompile()
    return copied
