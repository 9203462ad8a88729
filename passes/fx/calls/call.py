"""The calls that bnfx knows, in one normal form, whatever way they were written.

A call is known only if every one of its arguments is: one that is not in the signature makes it
opaque. Modules (``call_module``) are read into the same form by
:mod:`bnfx.passes.fx.calls.modules`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from bnfx.passes.fx import private
from bnfx.passes.fx.calls.signatures import (
    BATCH_NORM,
    CONV,
    CONV_TRANSPOSE,
    INSTANCE_NORM,
    INSTANCE_NORM_OF_ATEN,
    LINEAR,
    NATIVE_BATCH_NORM,
    NORM_OF_ATEN,
    REQUIRED,
    CallForm,
    Signature,
)
from bnfx.passes.fx.facts.spelling import spelling_of
from bnfx.passes.refusals import Code, Refusal

ALGEBRA: Mapping[str, CallForm] = {
    "conv1d": CallForm("conv", CONV, 1),
    "conv2d": CallForm("conv", CONV, 2),
    "conv3d": CallForm("conv", CONV, 3),
    "conv_transpose1d": CallForm("conv_transpose", CONV_TRANSPOSE, 1),
    "conv_transpose2d": CallForm("conv_transpose", CONV_TRANSPOSE, 2),
    "conv_transpose3d": CallForm("conv_transpose", CONV_TRANSPOSE, 3),
    "linear": CallForm("linear", LINEAR),
    "batch_norm": CallForm("batch_norm", BATCH_NORM, native=NORM_OF_ATEN),
    "instance_norm": CallForm("instance_norm", INSTANCE_NORM, native=INSTANCE_NORM_OF_ATEN),
    "native_batch_norm": CallForm("native_batch_norm", NATIVE_BATCH_NORM),
}
# What torch's functions also call an argument.
_NUMPY = {"axis": "dim", "keepdims": "keepdim"}


def named_by_torch(name: str) -> str:
    """Torch's own name of an argument that was passed by NumPy's."""
    return _NUMPY.get(name, name)


@dataclass(frozen=True)
class Call:
    """A known call.

    Args:
        kind: ``conv``, ``conv_transpose``, ``linear``, ``batch_norm``, ``instance_norm`` or
            ``native_batch_norm``; or one of :mod:`bnfx.passes.fx.calls.structure`.
        spatial: number of spatial dimensions of a convolution.
        arguments: every argument by name, defaults filled in.
        order: the names in positional order, to write the call again.
    """

    kind: str
    spatial: int
    arguments: Mapping[str, Any]
    order: tuple[str, ...] = field(default=())


def read_call(node: fx.Node) -> Call | Refusal | None:
    """The normal form of a ``call_function`` node.

    Returns:
        ``None`` for a call that bnfx has no interest in, and a refusal for one that it knows but
        that has an argument it does not know.
    """
    spelling = spelling_of(node) if node.op == "call_function" else None
    form = None if spelling is None else ALGEBRA.get(spelling.facts.name)
    return None if form is None else bind(node, form)


def bind(node: fx.Node, form: CallForm) -> Call | Refusal:
    """A call of this form, its arguments by name."""
    native = form.native is not None and is_native(node.target)
    signature = form.native if native else form.signature
    assert signature is not None
    arguments = bind_arguments(node, signature)
    if isinstance(arguments, Refusal):
        return arguments
    return Call(form.kind, form.spatial, arguments, tuple(signature))


def is_native(target: object) -> bool:
    """Whether it is one of ATen's ops, under its own name or as ``torch.NAME``."""
    overload = (private.OpOverload, private.OpOverloadPacket)
    return isinstance(target, overload) or inspect.isbuiltin(target)


def bind_arguments(node: fx.Node, signature: Signature) -> dict[str, Any] | Refusal:
    """The node's arguments by name, defaults filled in; a refusal if they do not fit."""
    names = tuple(signature)
    if len(node.args) > len(names):
        return Refusal(Code.UNKNOWN_ARGUMENT, f"{node.name} has {len(node.args)} arguments")
    given = dict(zip(names, node.args, strict=False))
    for written, value in node.kwargs.items():
        name = named_by_torch(written)
        if name not in signature or name in given:
            return Refusal(Code.UNKNOWN_ARGUMENT, f"{node.name} has an argument {written!r}")
        given[name] = value
    arguments = {name: given.get(name, default) for name, default in signature.items()}
    for name, value in arguments.items():
        if value is REQUIRED:
            return Refusal(Code.UNKNOWN_ARGUMENT, f"{node.name} has no argument {name!r}")
    return arguments
