"""What of a captured graph's outputs lies in the same memory, and where in it.

A caller may write to one output and look at another. Compilers keep neither that two outputs lie in
one memory, nor that they do not (Inductor merges equal ones, drops copies, and lays the base of a
view out anew), and a view with gaps gets other strides. So a compiler is given no such view: it is
asked for the value whose memory it lies in, and the views are made of that after each call. What
shares memory with an argument is not touched: AOTAutograd makes those views itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from bnfx.passes.fx.lowering.bind import bind, keep_note
from bnfx.passes.fx.memory.aliasing import written_by
from bnfx.passes.fx.memory.sizes_at_call import Numbers, SizesAtCall
from bnfx.passes.fx.metadata import dims_of, strides_of, value_of
from bnfx.passes.fx.private import fills_its_memory, memory

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
        whole: its place.
        part: that of the view.
        detached: whether gradients stop between the two.
    """

    base: int
    whole: Place
    part: Place
    detached: bool


@dataclass(frozen=True)
class OutputMemory:
    """What is to be made of a graph's outputs.

    Args:
        module: the graph without the views; the very graph, if there are none.
        outputs: for each output of the original, which one of ``module`` it is, or a view of it.
        own: the outputs of ``module`` that lie in memory of their own, each in another.
        arguments: those that a compiler might return in place of one of these.
    """

    module: fx.GraphModule
    outputs: tuple[int | View, ...]
    own: tuple[int, ...]
    arguments: tuple[int, ...]

    @property
    def is_kept(self) -> bool:
        """Whether no compiler can get it wrong."""
        views = any(isinstance(each, View) for each in self.outputs)
        return not views and (not self.own or len(self.own) + len(self.arguments) < 2)

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
        return OutputMemory(module, (), (), ())


class _Reading:
    def __init__(self, module: fx.GraphModule, returned: Sequence[Any]) -> None:
        self._module = module
        self._returned = returned
        self._placeholders = module.graph.find_nodes(op="placeholder")
        self._sizes = SizesAtCall([node.meta.get("example_value") for node in self._placeholders])
        self._lying_in: dict[object, list[fx.Node]] = {}  # memory -> what lies in it, in order
        for node in module.graph.nodes:
            if (where := _memory_of(node)) is not None:
                self._lying_in.setdefault(where, []).append(node)
        self._fresh: dict[object, list[fx.Node]] = {}  # memory of no argument -> outputs in it
        for node in _nodes(returned):
            where = _memory_of(node)
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
                base = instead.get(value, value) if isinstance(value, fx.Node) else value
                at = next((i for i, each in enumerate(kept) if each is base), len(kept))
                kept[at:] = kept[at:] or [base]
                outputs.append(at if base is value else self._view(at, base, value))
            module = _returning(self._module, kept)
        alone = {nodes[0] for nodes in self._fresh.values() if len(nodes) == 1} - {*instead}
        alone |= {*instead.values()}
        own = [at for at, value in enumerate(kept) if value in alone]
        return OutputMemory(
            module, tuple(outputs), tuple(own), tuple(self._like(kept[at] for at in own))
        )

    def _base(self, where: object, outputs: Sequence[fx.Node]) -> fx.Node | None:
        """What to ask for in place of these outputs; ``None`` if they are right as they are, or
        nothing in the graph is all of that memory.
        """
        if len(outputs) == 1 and fills_its_memory(_value(outputs[0])):
            return None
        whole = self._lying_in[where][0]
        if not _is_whole(_value(whole)):
            return None
        if any(self._place(node) is None for node in (whole, *outputs)):
            return None
        grad = any(_value(node).requires_grad for node in outputs)
        same = [
            node
            for node in self._lying_in[where]
            if _form(node) == _form(whole) and _value(node).requires_grad == grad
        ]
        return next((node for node in same if node in outputs), same[-1] if same else None)

    def _view(self, at: int, base: fx.Node, value: fx.Node) -> View:
        whole, part = self._place(base), self._place(value)
        assert whole is not None and part is not None
        return View(at, whole, part, _value(base).requires_grad and not _value(value).requires_grad)

    def _place(self, node: fx.Node) -> Place | None:
        value = _value(node)
        if value.is_conj() or value.is_neg():
            return None
        numbers = self._sizes.of((*value.shape, *value.stride(), value.storage_offset()))
        return None if numbers is None else Place(value.dtype, value.dim(), numbers)

    def _like(self, nodes: Iterable[fx.Node]) -> Iterable[int]:
        """The arguments that have the form of one of these, so that it might be a copy of them."""
        forms = {(_value(node).dtype, dims_of(_value(node))) for node in nodes}
        for at, placeholder in enumerate(self._placeholders):
            value = value_of(placeholder)
            if value is not None and (value.dtype, dims_of(value)) in forms:
                yield at


def _nodes(values: Iterable[Any]) -> Iterable[fx.Node]:
    return dict.fromkeys(each for each in values if isinstance(each, fx.Node))


def _value(node: fx.Node) -> torch.Tensor:
    value = value_of(node)
    assert value is not None, "only values that are known lie in a known memory"
    return value


def _memory_of(node: fx.Node) -> object:
    """What tells the memory in which the node's value lies; ``None`` if that is not known."""
    value = value_of(node)
    try:
        return None if value is None else memory(value)
    except NotImplementedError:  # what torch.vmap shows has no memory that could be asked for
        return None


def _form(node: fx.Node) -> object:
    value = _value(node)
    return value.dtype, dims_of(value), strides_of(value), str(value.storage_offset())


def _is_whole(value: torch.Tensor) -> bool:
    """Whether, at the sizes of the example, the value is all of its memory."""
    numbers = [
        each if isinstance(each, int) else each.node.hint
        for each in (*value.shape, *value.stride(), value.storage_offset())
    ]
    if any(each is None for each in numbers) or numbers.pop() != 0:
        return False
    sizes, strides = numbers[: value.dim()], numbers[value.dim() :]
    expected = 1
    for stride, size in sorted(zip(strides, sizes, strict=True)):
        if size != 1 and stride != expected:
            return 0 in sizes
        expected *= size
    return True


def _returning(module: fx.GraphModule, values: Sequence[Any]) -> fx.GraphModule:
    """A copy of ``module`` that returns these of its values, without what only the others read."""
    copied = bind(module, {})
    keep_note(module, copied, "_param_name_to_source")
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
