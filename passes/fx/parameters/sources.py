"""Which tensors of a graph are parameters that a fold may read ahead of time."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import fx, nn

from bnfx.passes.algebra import Expression, Scalar, Source
from bnfx.passes.fx import private
from bnfx.passes.fx.calls.modules import Attribute
from bnfx.passes.fx.metadata import dtype_name, value_of
from bnfx.passes.fx.parameters.computed import ComputedConstants
from bnfx.passes.fx.parameters.scope import WHOLE, Scope
from bnfx.passes.fx.private import memory as memory
from bnfx.passes.refusals import Code, Refusal

_FLOATS = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
ATTRIBUTE_PREFIX = "self."
# Tensors whose arithmetic is torch's own.
PLAIN = frozenset({torch.Tensor, nn.Parameter, nn.Buffer, private.FakeTensor})


class Sources:
    """Resolves arguments to :class:`~bnfx.passes.algebra.Source` leaves.

    Args:
        module: the graph module, for ``get_attr`` and leaf modules.
        parameters: placeholder name -> tensor, for the placeholders that are parameters or
            buffers. A fake tensor stands for one whose numbers are not known yet.
        scalars: the placeholders that are Python numbers handed in as 0-d tensors.
        others: the other tensors that the graph is called with, by placeholder name.
        mutated: the leaves that the graph may write to, and tensors that leaf modules may. Whatever
            shares memory with one of them counts too: each access to an attribute is a node of its
            own, and an input may be a view of a parameter.
        scope: where the graph stands.
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Mapping[str, torch.Tensor],
        scalars: Mapping[str, torch.Tensor],
        others: Mapping[str, torch.Tensor],
        mutated: Collection[fx.Node | torch.Tensor],
        scope: Scope = WHOLE,
    ) -> None:
        self._module = module
        self.scope = scope
        self._parameters = parameters
        self._scalars = scalars
        written = (
            leaf
            if isinstance(leaf, torch.Tensor)
            else others.get(leaf.name, self._leaf(leaf))  # a name is a placeholder's, or unknown
            for leaf in mutated
        )
        self._written = {memory(tensor) for tensor in written if tensor is not None}
        self.constants = ComputedConstants(self._leaf)
        self.tensors: dict[str, torch.Tensor] = {}  # what resolved, by source name

    def resolve(self, argument: object, what: str) -> Source | Refusal:
        """The source behind a weight or statistic, or why it is not one."""
        if isinstance(argument, Attribute):
            name, tensor = self._path(argument.name), self._attribute(argument.name)
        elif not isinstance(argument, fx.Node):
            return Refusal(Code.UNKNOWN_ARGUMENT, f"its {what} is {argument!r}, not a tensor")
        elif argument in self.constants:
            return self._resolve_computed(argument, what)
        else:
            name = argument.name
            if argument.op == "get_attr":
                name = self._path(str(argument.target))
            tensor = self._leaf(argument)
        if tensor is None:
            return Refusal(
                Code.NOT_A_PARAMETER, f"its {what} ({argument}) is no parameter or buffer"
            )
        refusal = _refuse_tensor(tensor, what)
        if refusal is not None:
            return refusal
        if memory(tensor) in self._written:
            return Refusal(Code.MUTATED_IN_GRAPH, f"the graph may write to its {what}")
        source = self.scope.given.get(name)
        if source is None:
            source = Source(name, tuple(map(int, tensor.shape)), dtype_name(tensor.dtype))
        self.tensors[source.name] = tensor
        return source

    def may_share_memory(self, written: set[fx.Node]) -> list[fx.Node]:
        """The inputs and attributes whose memory a write to one of ``written`` may reach.

        Callers may hand in views of each other, and of buffers; which are, changes from call to
        call. Parameters and buffers are compared.
        """
        leaves = [
            node
            for node in next(iter(written)).graph.nodes
            if node.op in ("placeholder", "get_attr")
        ]
        held = [tensor for node in written if (tensor := self._leaf(node)) is not None]
        if len(held) < len(written):
            return leaves
        reached = set(map(memory, held))
        tensors = ((node, self._leaf(node)) for node in leaves)
        return [node for node, tensor in tensors if tensor is None or memory(tensor) in reached]

    def _resolve_computed(self, node: fx.Node, what: str) -> Source | Refusal:
        """A value that the graph computes from parameters alone."""
        bases = [self.resolve(base, what) for base in self.constants.bases(node)]
        for base in bases:
            if isinstance(base, Refusal):
                return base
        tensor = self.constants.value(node)
        refusal = _refuse_tensor(tensor, what)
        if refusal is not None:
            return refusal
        told = value_of(node)
        if told is not None and told.dtype != tensor.dtype:  # autocast computes it in another one
            why = f"its {what} is computed in {dtype_name(told.dtype)}"
            return Refusal(Code.UNSUPPORTED_DTYPE, why)
        name = f"{self.scope.computed}{node.name}"
        self.tensors[name] = tensor
        known = tuple(base for base in bases if isinstance(base, Source))
        return Source(name, tuple(map(int, tensor.shape)), dtype_name(tensor.dtype), known)

    def resolve_operand(self, argument: object) -> Expression | None:
        """An operand of arithmetic, if it is a parameter or computed from parameters alone."""
        source = self.resolve(argument, "operand")
        return source if isinstance(source, Source) else None

    def resolve_scalar(self, argument: object, what: str) -> Expression | Refusal:
        """A Python number, or one that Dynamo hands in at run time (``eps`` under dynamic=True)."""
        if isinstance(argument, (int, float)) and not isinstance(argument, bool):
            return Scalar(float(argument))
        if isinstance(argument, fx.Node):
            read = argument.target == "item"
            leaf = argument.all_input_nodes[0] if read else argument
            given = self.scope.given.get(leaf.name)
            if given is not None and leaf.name not in self._parameters:
                return given
            if leaf.name in self._scalars:
                value = self._scalars[leaf.name]
                self.tensors[leaf.name] = value
                return Source(leaf.name, (), dtype_name(value.dtype))
        return Refusal(Code.DYNAMIC_ARGUMENT, f"its {what} is computed in the graph")

    def _path(self, attribute: str) -> str:
        return f"{ATTRIBUTE_PREFIX}{self.scope.attributes}{attribute}"

    def _leaf(self, node: fx.Node) -> torch.Tensor | None:
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        return self._parameters.get(node.name)

    def _attribute(self, path: str) -> torch.Tensor | None:
        owner, _, name = path.rpartition(".")
        try:
            value = getattr(self._module.get_submodule(owner), name)
        except AttributeError:
            return None
        return value if isinstance(value, torch.Tensor) else None


def _refuse_tensor(tensor: object, what: str) -> Refusal | None:
    """Why a tensor's numbers are none that algebra could be done with, if they are not."""
    if type(tensor) not in PLAIN:
        return Refusal(Code.TENSOR_SUBCLASS, f"its {what} is a {type(tensor).__name__}")
    assert isinstance(tensor, torch.Tensor)
    if tensor.dtype not in _FLOATS or tensor.layout != torch.strided:
        return Refusal(
            Code.UNSUPPORTED_DTYPE, f"its {what} is {dtype_name(tensor.dtype)}, not real"
        )
    return None
