"""Which parameters a graph may write to while it runs.

A fold reads parameters before the graph runs, so a parameter that the graph itself writes cannot
be folded. The analysis errs on the safe side: an op that it does not know passes its inputs' memory
on to its output, and may write to them if it is not torch's own.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules import batchnorm, conv, pooling

from bnfx.passes.fx.calls.aten import is_fresh_overload
from bnfx.passes.fx.calls.call import Call, read_call
from bnfx.passes.fx.calls.modules import known_class

_IN_PLACE_OPERATORS = frozenset(
    {operator.iadd, operator.iand, operator.iconcat, operator.ifloordiv, operator.ilshift}
    | {operator.imatmul, operator.imod, operator.imul, operator.ior, operator.ipow}
    | {operator.irshift, operator.isub, operator.itruediv, operator.ixor}
)
# Ops whose result never shares memory with an input: the walk back to a parameter ends here.
FRESH = frozenset(
    {operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul, operator.neg}
    | {operator.pow, torch.add, torch.sub, torch.mul, torch.div, torch.matmul, torch.bmm}
    | {torch.cat, torch.concat, torch.stack, torch.mean, torch.sum, torch.sigmoid, torch.tanh}
    | {F.relu, F.relu6, F.leaky_relu, F.gelu, F.silu, F.hardswish, F.hardtanh, F.hardsigmoid}
    | {F.softmax, F.sigmoid, F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d}
    | {F.avg_pool2d, F.avg_pool3d, F.layer_norm, F.group_norm, F.interpolate}
    | {F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.adaptive_max_pool1d, F.pad}
    | {F.adaptive_max_pool2d, F.adaptive_max_pool3d, torch._C._nn.pad, torch.adaptive_avg_pool1d}
)
_FRESH_METHODS = frozenset({"add", "sub", "mul", "div", "mean", "sum", "clone", "sigmoid", "relu"})
_FRESH_MODULES = (
    *(conv._ConvNd, nn.Linear, batchnorm._BatchNorm),
    *(pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveAvgPoolNd, nn.Upsample),
)
_TORCH_MODULES = ("torch", "_operator", "operator", "math", "builtins", "einops", "torchvision")


def module_writes(graph: fx.Graph, module: nn.Module) -> Iterator[torch.Tensor]:
    """The tensors that leaf modules may write to by themselves, such as running statistics."""
    for node in graph.find_nodes(op="call_module"):
        leaf = module.get_submodule(node.target)
        known = _is_known(leaf)
        if not known or getattr(leaf, "max_norm", None) is not None:
            yield from leaf.parameters()
        if not known or leaf.training:
            yield from leaf.buffers()


def mutated_leaves(graph: fx.Graph, module: nn.Module) -> set[fx.Node]:
    """The placeholders and ``get_attr`` nodes whose tensors the graph may write to."""
    leaves: set[fx.Node] = set()
    seen: set[fx.Node] = set()
    stack = [argument for node in graph.nodes for argument in written_by(node, module)]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op in ("placeholder", "get_attr"):
            leaves.add(node)
        else:
            stack.extend(shares_memory_with(node, module))
    return leaves


def written_by(node: fx.Node, module: nn.Module) -> Iterator[fx.Node]:
    """The arguments that the node itself may write to."""
    target: Any = node.target
    first = _nodes(node.args[:1])
    yield from _nodes(node.kwargs.get("out"))
    if node.op == "call_method":
        # "__imul__" and its like; "__int__" too, which does no harm
        if target == "__setitem__" or target.startswith("__i") or in_place_name(target):
            yield from first
    elif node.op == "call_module":
        leaf = module.get_submodule(target)
        if getattr(leaf, "inplace", False) or not _is_known(leaf):
            yield from node.all_input_nodes
    elif node.op == "call_function":
        if isinstance(target, torch._ops.OpOverload):
            for position, argument in enumerate(target._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    value = node.kwargs.get(argument.name)
                    yield from _nodes(node.args[position] if position < len(node.args) else value)
        call = read_call(node)
        if isinstance(call, Call):
            flag = "use_input_stats" if call.kind == "instance_norm" else "training"
            if "norm" in call.kind and call.arguments[flag] is not False:
                statistics = (call.arguments["running_mean"], call.arguments["running_var"])
                yield from (value for value in statistics if isinstance(value, fx.Node))
        elif _may_track(getattr(target, "__name__", "")):
            yield from node.all_input_nodes
        elif isinstance(target, torch._ops.OpOverload):
            return  # its schema has told
        elif target in (F.embedding, F.embedding_bag):
            given = _given(node)
            if given.get(3, given.get("max_norm")) is not None:  # renormalises its table
                yield from _nodes([given.get(1), given.get("weight")])
        elif (
            target is operator.setitem
            or target in _IN_PLACE_OPERATORS
            or in_place_name(getattr(target, "__name__", ""))
            or asks_in_place(node)
        ):
            yield from first
        elif not _is_torch(target):
            yield from node.all_input_nodes


def _may_track(name: str) -> bool:
    """Whether it is a form of BatchNorm that is not read, and may update statistics: some of them
    write to their arguments without saying so in their schema.
    """
    harmless = ("no_training", "no_stats", "no_update", "functional", "backward")
    tracks = "batch_norm" in name or "instance_norm" in name
    return tracks and not any(word in name for word in harmless)


def _given(node: fx.Node) -> dict[int | str, Any]:
    """The arguments of a call, by position or name, as they were given."""
    given: dict[int | str, Any] = dict(enumerate(node.args))
    given.update(node.kwargs.items())
    return given


def _is_known(leaf: nn.Module) -> bool:
    """Whether the module's forward is torch's own."""
    return type(leaf).__module__.startswith("torch.nn") or known_class(leaf) is not None


def _nodes(argument: Any) -> list[fx.Node]:
    """The nodes in an argument, which may be a list or tuple of them."""
    found: list[fx.Node] = []
    fx.node.map_arg(argument, found.append)
    return found


def in_place_name(name: str) -> bool:
    """Whether a method or function of that name writes to its first argument."""
    return name.endswith("_") and not name.endswith("__")


@functools.cache
def _signature(target: Any) -> inspect.Signature:
    return inspect.signature(target)


def asks_in_place(node: fx.Node) -> bool:
    """Whether the call's ``inplace`` argument is, or may be, true."""
    if "inplace" in node.kwargs:
        return node.kwargs["inplace"] is not False
    try:
        bound = _signature(node.target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # builtins have no signature, nor an inplace argument
        return False
    return bound.arguments.get("inplace", False) is not False


def _is_torch(target: Any) -> bool:
    if isinstance(target, torch._ops.HigherOrderOperator):
        return False
    if isinstance(target, torch._ops.OpOverloadPacket):
        overloads = (getattr(target, name) for name in target.overloads())  # type: ignore[no-untyped-call]
        return not any(overload._schema.is_mutable for overload in overloads)
    owner = getattr(target, "__module__", None) or ""
    return owner.split(".")[0] in _TORCH_MODULES or inspect.isbuiltin(target)


def shares_memory_with(node: fx.Node, module: nn.Module) -> list[fx.Node]:
    """The inputs whose memory the node's value may lie in."""
    if is_fresh(node, module):
        return []
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.target in _IN_PLACE_OPERATORS or (node.op != "call_module" and in_place_name(name)):
        return _nodes(node.args[:1])
    return node.all_input_nodes


def is_fresh(node: fx.Node, module: nn.Module) -> bool:
    """Whether the node's value is known to share no memory with its inputs."""
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), _FRESH_MODULES)
    if node.op == "call_method":
        return node.target in _FRESH_METHODS
    if isinstance(read_call(node), Call):
        return True
    if isinstance(node.target, torch._ops.OpOverload):
        return is_fresh_overload(node.target)
    return node.target in FRESH and not asks_in_place(node)
