"""One call of an ATen operator: its arguments by name, and how it is written in Relax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx
from tvm import relax

from bnfx.passes.relax.compat import Expr
from bnfx.tvm.ops.constant_nodes import CONSTANT

FLOATS = frozenset({torch.float16, torch.float32, torch.float64})
# What may be moved about: NumPy and TVM know these alike.
MOVABLE = FLOATS | {torch.int32, torch.int64}


class OpCall:
    """A call of an ATen operator whose values' shapes and dtypes are known.

    Args:
        node: it and its arguments have ``meta["val"]``.
    """

    def __init__(self, node: fx.Node) -> None:
        assert isinstance(node.target, torch._ops.OpOverload)
        self.node = node
        self.arguments: dict[str, Any] = {}
        for at, argument in enumerate(node.target._schema.arguments):
            given = node.args[at] if at < len(node.args) else node.kwargs.get(argument.name, _NONE)
            value = argument.default_value if given is _NONE else given
            self.arguments[argument.name] = list(value) if isinstance(value, tuple) else value

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def result(self) -> Any:
        """What it gives, as a tensor without numbers; a tuple of some where it gives several."""
        return self.node.meta["val"]

    @property
    def output(self) -> torch.Tensor:
        """Its result, or the first one."""
        result = self.result
        first = result if isinstance(result, torch.Tensor) else result[0]
        assert isinstance(first, torch.Tensor)
        return first

    def value(self, name: str) -> torch.Tensor:
        """A tensor argument, without numbers."""
        value = self.arguments[name].meta["val"]
        assert isinstance(value, torch.Tensor)
        return value

    def tensors(self) -> list[torch.Tensor]:
        """All of its tensor arguments."""
        values = (node.meta.get("val") for node in self.node.all_input_nodes)
        return [value for value in values if isinstance(value, torch.Tensor)]

    def shape(self, name: str) -> list[int]:
        return [int(size) for size in self.value(name).shape]

    def axis(self, name: str, of: str = "self", extra: int = 0) -> int:
        """An axis argument, counted from the front."""
        return int(self[name]) % (self.value(of).dim() + extra)

    def axes(self, name: str, of: str = "self") -> list[int]:
        """An argument of several axes, counted from the front; all of them if it is empty."""
        rank = self.value(of).dim()
        return [int(axis) % rank for axis in self[name] or range(rank)]

    def vanishes(self, value: float) -> bool:
        """Whether a number is 0 in the dtype that is computed in."""
        wide = self.output.dtype is torch.float64
        with np.errstate(over="ignore"):
            return not (value if wide else np.float32(value))

    def only_first(self) -> bool:
        """Whether none of its results but the first is read."""
        return all(user.args[1] == 0 for user in self.node.users)


_NONE = object()
Emit = Callable[["Lowering"], Any]
Check = Callable[[OpCall], "str | None"]


@dataclass(frozen=True)
class Row:
    """An operator that TVM may run, as the suite has tested it.

    Args:
        op: its name, such as ``"add.Tensor"``.
        emit: writes it in Relax.
        checks: each says why a call is not to be written, or gives ``None``.
        dtypes: of all its tensors, which are of one dtype.
        moves: whether it computes nothing.
        any_size: whether sizes may be unknown when it is written.
    """

    op: str
    emit: Emit
    checks: tuple[Check, ...] = ()
    dtypes: frozenset[torch.dtype] = FLOATS
    moves: bool = False
    any_size: bool = False

    def refusal(self, call: OpCall) -> str | None:
        """Why this call is not to be written, if it is not."""
        tensors = [call.output, *call.tensors()]
        dtype = tensors[0].dtype
        if any(tensor.dtype != dtype for tensor in tensors):
            return "of several dtypes"
        if dtype not in self.dtypes:
            return f"of {str(dtype).removeprefix('torch.')}"
        if not self.moves and not any(tensor.dim() for tensor in tensors):
            return "of no dimension"  # Lowering.number
        sizes = [size for tensor in tensors for size in tensor.shape]
        if not self.any_size and any(not isinstance(size, int) for size in sizes):
            return "its sizes are not known"
        if any(isinstance(size, int) and size == 0 for size in sizes):
            return "of no elements"
        if any(tensor.layout is not torch.strided or tensor.is_quantized for tensor in tensors):
            return "of a layout of its own"
        return next(filter(None, (check(call) for check in self.checks)), None)


@dataclass
class Lowering:
    """A call that is being written.

    float16 is computed in float32 and rounded once, as PyTorch does.

    Args:
        call: what is called.
        builder: a ``relax.BlockBuilder``.
        values: of the nodes that it reads.
    """

    call: OpCall
    builder: Any
    values: Mapping[fx.Node, Any]
    widen: bool = field(init=False, default=False)
    moves: bool = field(init=False, default=False)

    def run(self, row: Row) -> Any:
        """The call in Relax: a value, or a tuple of some."""
        self.moves = row.moves
        self.widen = not row.moves and self.call.output.dtype is torch.float16
        result = row.emit(self)
        if not self.widen:
            return result
        if isinstance(result, tuple):
            return tuple(self.emit(relax.op.astype(value, "float16")) for value in result)
        return self.emit(relax.op.astype(result, "float16"))

    def __getitem__(self, name: str) -> Any:
        return self.call[name]

    @property
    def dtype(self) -> str:
        """What is computed in."""
        dtype = str(self.call.output.dtype).removeprefix("torch.")
        return "float32" if self.widen else dtype

    def emit(self, expression: Expr) -> Expr:
        return self.builder.emit(expression)

    def read(self, node: fx.Node) -> Expr:
        """The value of a node, in the dtype that is computed in."""
        kept = node.meta.get(CONSTANT)
        if not self.moves and isinstance(kept, torch.Tensor) and not kept.dim():
            return self.number(kept.item())
        value = self.values[node]
        return self.emit(relax.op.astype(value, "float32")) if self.widen else value

    def tensor(self, name: str) -> Expr:
        """A tensor argument."""
        return self.read(self.call[name])

    def optional(self, name: str) -> Expr | None:
        """A tensor argument that may be missing."""
        return None if self.call[name] is None else self.tensor(name)

    def operand(self, name: str) -> Expr:
        """A tensor argument or a number."""
        value = self.call[name]
        return self.read(value) if isinstance(value, fx.Node) else self.number(value)

    def number(self, value: float) -> Expr:
        """As a tensor of one element, which broadcasts.

        TVM calculates with scalars that it knows as if they were real numbers: ``x * 0`` is 0 for
        it whatever x is, ``x + 0`` keeps -0, ``(x + 1e8) - 1e8`` is x.
        """
        shape = (1,) if self.call.output.dim() else ()
        with np.errstate(over="ignore"):  # 1e300 is infinity in float32
            return relax.const(np.full(shape, value, self.dtype), self.dtype)

    def reshaped(self, expression: Expr, shape: list[int]) -> Expr:
        return self.emit(relax.op.reshape(expression, shape))

    def result_shape(self) -> list[int]:
        return [int(size) for size in self.call.output.shape]
