"""Whose a call is, and what the way it is written says of writes.

What is torch's own writes to nothing but what its name, its schema or an argument says. Of others
nothing is known: they may write to anything, and give what somebody else can see, too.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx, nn

from bnfx.passes.fx import private
from bnfx.passes.fx.calls.modules import is_patched, known_class
from bnfx.passes.fx.facts.spelling import parameters_of

_TORCH = ("torch.", "_operator.", "operator.", "math.", "builtins.", "einops.", "torchvision.")
# Parts of torch that write to what they are given, or run what a user wrote.
_OTHER = ("torch.distributed.", "torch.jit.", "torch.nn.init.", "torch.nn.utils.", "torch.utils.")


def is_torch(target: Any) -> bool:
    """Whether a function is torch's own, and writes to no more than the way it is written says."""
    if isinstance(target, private.HigherOrderOperator):
        return False
    if isinstance(target, private.OpOverloadPacket):
        overloads = (getattr(target, name) for name in target.overloads())
        schemas = map(private.schema_of, overloads)
        return all(schema is not None and not schema.is_mutable for schema in schemas)
    owner = f"{getattr(target, '__module__', None) or ''}."
    return owner.startswith(_TORCH) and not (owner.startswith(_OTHER) or _writes_unsaid(target))


@functools.cache
def _writes_unsaid(target: Any) -> bool:
    """Whether ATen's op of that name writes to more than the first argument of ``name_``, as
    ``torch.fused_moving_avg_obs_fake_quant`` does to the range that it observes.
    """
    name = getattr(target, "__name__", "")
    said = in_place_name(name)
    packet = getattr(torch.ops.aten, name, None)
    overloads = packet.overloads() if isinstance(packet, private.OpOverloadPacket) else ()
    for schema in (private.schema_of(getattr(packet, overload)) for overload in overloads):
        for argument in () if schema is None else schema.arguments[int(said) :]:
            if argument.kwarg_only or argument.alias_info is None:  # the first may be an ``out``
                continue
            # TorchScript sorts lists in place by the name of what sorts a tensor.
            if argument.alias_info.is_write and (said or "List" not in str(argument.type)):
                return True
    return False


def is_known_leaf(leaf: nn.Module) -> bool:
    """Whether what the module runs is torch's own, or known."""
    own = type(leaf).__module__.startswith("torch.nn.") and not is_patched(leaf)
    return own or known_class(leaf) is not None


def is_torchs_call(node: fx.Node, module: nn.Module) -> bool:
    """Whether it is known that what the node gives is new, or lies in the memory of its inputs."""
    if node.op == "call_module":
        return is_known_leaf(module.get_submodule(str(node.target)))
    return node.op == "call_method" or is_torch(node.target)


def in_place_name(name: str) -> bool:
    """Whether a method or function of that name writes to its first argument."""
    return name.endswith("_") and not name.endswith("__")


def asks_in_place(node: fx.Node) -> bool:
    """Whether the call's ``inplace`` argument is, or may be, true."""
    return _argument(node, "inplace", False) is not False


def out_of(node: fx.Node) -> Any | None:
    """What the call is to write its answer to, where that is an argument: a tensor, or several."""
    return _argument(node, "out", None)


def _argument(node: fx.Node, name: str, default: object) -> Any:
    """What is passed by that name, or in its place."""
    if name in node.kwargs:
        return node.kwargs[name]
    names = parameters_of(node.target)  # none of a method, or a builtin
    position = names.index(name) if name in names else len(node.args)
    return node.args[position] if position < len(node.args) else default
