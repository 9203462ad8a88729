"""Writes a graph of operators that stand in the table as a Relax module."""

from __future__ import annotations

from typing import Any

import torch
import tvm
from torch import fx
from tvm import relax

from bnfx.passes.relax.compat import Expr, TensorType, constant, type_of
from bnfx.passes.relax.shapes import dtype_of
from bnfx.tvm.ops import TABLE, Lowering, OpCall
from bnfx.tvm.ops.constant_nodes import CONSTANT


class Mismatch(Exception):  # noqa: N818 - it is caught where the graph is taken apart
    """What a call gives in TVM is not what the graph says of it.

    Args:
        name: of the node.
        reason: what differs.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


def written(module: fx.GraphModule) -> tvm.IRModule:
    """A Relax module whose ``main`` takes the placeholders and gives a tuple.

    Raises:
        Mismatch: see :func:`write`.
    """
    builder = relax.BlockBuilder()
    write(builder, "main", module)
    result: tvm.IRModule = builder.get()
    return result


def write(builder: Any, name: str, module: fx.GraphModule) -> None:
    """Write a graph as a function of a ``relax.BlockBuilder``.

    Raises:
        Mismatch: for a call whose shape or dtype differs from its ``meta["val"]``, or that TVM
            refuses.
    """
    values: dict[fx.Node, Any] = {}
    places = module.graph.find_nodes(op="placeholder")
    for place in places:
        values[place] = relax.Var(place.name, _type(place.meta["val"]))
    with builder.function(name, [values[place] for place in places]):
        with builder.dataflow():
            for node in module.graph.nodes:
                if node.op == "get_attr":
                    kept = node.meta[CONSTANT]
                    if isinstance(kept, torch.Tensor) and not kept.dtype.is_complex:
                        values[node] = constant(kept.detach().cpu().resolve_neg().numpy())
                elif node.op == "call_function":
                    values[node] = _call(node, builder, values)
            outputs: Any = module.graph.output_node().args[0]
            results = [values[node] for node in outputs]
            result = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(result)


def _type(value: torch.Tensor) -> Any:
    return TensorType(list(map(int, value.shape)), _dtype(value))


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _call(node: fx.Node, builder: Any, values: dict[fx.Node, Any]) -> Any:
    if getattr(node.target, "__name__", "") == "getitem":
        source, at = node.args
        assert isinstance(source, fx.Node)
        pieces: Any = values[source]
        return pieces[at]
    call = OpCall(node)
    try:
        result = Lowering(call, builder, values).run(TABLE[str(node.target.__name__)])  # type: ignore[union-attr]
    except Exception as error:
        raise Mismatch(node.name, f"TVM refuses it: {error}".splitlines()[0]) from error
    expected = call.result
    if isinstance(expected, torch.Tensor):
        pairs = [(result, expected)]
    else:
        pairs = list(zip(result, expected, strict=False))  # those that nobody reads are left out
    for ours, theirs in pairs:
        _require(node, ours, theirs)
    return result


def _require(node: fx.Node, ours: Expr, theirs: torch.Tensor) -> None:
    """The type that TVM infers is the one that the graph states."""
    kind = type_of(ours)
    shape = [getattr(size, "value", None) for size in kind.shape.values]
    dtype = dtype_of(kind)
    if dtype != _dtype(theirs) or shape != list(theirs.shape):
        raise Mismatch(node.name, f"TVM makes it {dtype} of {shape}")
