"""Leaf modules (``call_module``) in the normal form of :mod:`bnfx.passes.fx.calls.call`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn.modules import batchnorm, conv
from torch.nn.modules import module as module_globals

from bnfx.passes.fx.calls.call import ALGEBRA, Call
from bnfx.passes.fx.facts.known import Facts
from bnfx.passes.fx.facts.spelling import facts_of_class, named
from bnfx.passes.refusals import Code, Refusal

_INSTANCE_NORMS: dict[type[nn.Module], int] = {
    nn.InstanceNorm1d: 3,
    nn.InstanceNorm2d: 4,
    nn.InstanceNorm3d: 5,
}  # -> rank
_registered: dict[type[nn.Module], None] = {}  # classes of others that are BatchNorms in evaluation
# What decides a known module's output; a subclass that overrides one is opaque.
BEHAVIOUR = (
    "__call__",
    "_wrapped_call_impl",
    "_call_impl",
    "forward",
    "_conv_forward",
    "_output_padding",
    "_check_input_dim",
    "_check_non_zero_input_channels",
    "__getattr__",
    "__getattribute__",
)

_POSITIONS = ("reflect", "replicate", "circular")  # pads with elements of the input
BATCH_NORM_RANK = {nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}


@dataclass(frozen=True)
class Attribute:
    """A tensor attribute of a leaf module: its qualified name."""

    name: str


def register_batch_norm(kind: type[nn.Module]) -> None:
    """Make a class known whose evaluation is that of ``nn.BatchNorm1d`` and its like."""
    _registered[kind] = None


def is_registered(module: nn.Module) -> bool:
    """Whether the module is of a class that is no torch's own, but was made known."""
    return type(module) in _registered


def is_batch_norm(module: nn.Module) -> bool:
    """Whether the module is a BatchNorm of torch's, or of a subclass."""
    return isinstance(module, batchnorm._BatchNorm)


def known_class(module: nn.Module) -> type[nn.Module] | None:
    """The known class whose behaviour ``module`` has unchanged, or ``None``."""
    for known in (*_classes(), *_registered):
        if isinstance(module, known):
            same = all(
                getattr(type(module), name, None) is getattr(known, name, None)
                for name in BEHAVIOUR
            )
            return known if same and not is_patched(module) else None
    return None


def is_patched(module: nn.Module) -> bool:
    """Whether the module itself, and not its class, says what it does."""
    return any(name in vars(module) for name in BEHAVIOUR)


@functools.cache
def _classes() -> tuple[type[nn.Module], ...]:
    """Torch's classes of convolutions, linear layers and normalisations."""
    return tuple(kind for name in ALGEBRA for kind in named(name).modules)


def facts_of_leaf(leaf: nn.Module) -> Facts | None:
    """What is known of a call of the module, if nothing else runs with it."""
    if has_hooks(leaf) or is_patched(leaf):
        return None
    kind = known_class(leaf)
    return named("batch_norm") if kind in _registered else facts_of_class(kind or type(leaf))


def read_module(node: fx.Node, module: nn.Module) -> Call | Refusal | None:
    """A ``call_module`` node in normal form; see :func:`~bnfx.passes.fx.calls.call.read_call`."""
    if not isinstance(module, (conv._ConvNd, nn.Linear, batchnorm._NormBase)):
        return None
    known = known_class(module)
    if known is None or _is_computed(module):
        return Refusal(
            Code.SUBCLASS, f"{node.target} is a {type(module).__name__}, which adds behaviour"
        )
    if has_hooks(module):
        return Refusal(Code.HAS_HOOKS, f"{node.target} has forward hooks")
    if len(node.args) + len(node.kwargs) != 1 or node.kwargs.keys() - {"input"}:
        return Refusal(Code.UNKNOWN_ARGUMENT, f"{node.target} is not called with an input alone")
    arguments: dict[str, Any] = {"input": node.args[0] if node.args else node.kwargs["input"]}
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(module, name, None) is not None:
            arguments[name] = Attribute(f"{node.target}.{name}")
        else:
            arguments[name] = None
    facts = named("batch_norm") if known in _registered else facts_of_class(known)
    assert facts is not None
    form = ALGEBRA[facts.name]
    if form.kind == "batch_norm":
        training = module.training or module.running_mean is None
        arguments |= {"training": training, "eps": module.eps, "momentum": module.momentum}
        return Call("batch_norm", 0, arguments)
    if form.kind == "instance_norm":
        value = node.meta.get("val")
        if value is None or value.dim() != _INSTANCE_NORMS[known]:
            return None  # without a batch, its channels are axis 0
        training = module.training or module.running_mean is None
        arguments |= {"use_input_stats": training, "eps": module.eps, "momentum": module.momentum}
        return Call("instance_norm", 0, arguments)
    if form.kind == "linear":
        return Call("linear", 0, arguments)
    for name in ("stride", "padding", "dilation", "groups", "output_padding"):
        arguments[name] = getattr(module, name)  # a plain convolution's output_padding is zero
    if module.padding_mode not in ("zeros", *_POSITIONS):
        return None
    if module.padding_mode != "zeros":
        # The module pads its input itself, then convolves without padding; what comes after the
        # convolution is unaffected. The lowered module is a copy, so it pads as before.
        arguments["padding"] = 0
        arguments["hides_padding"] = True
    return Call(form.kind, form.spatial, arguments)


def _is_computed(module: nn.Module) -> bool:
    """Whether a tensor is not stored as itself, as under parametrizations and old weight_norm."""
    stored = {**module._parameters, **module._buffers}
    names = ("weight", "bias", "running_mean", "running_var")
    return any(getattr(module, name, None) is not stored.get(name) for name in names)


def has_hooks(module: nn.Module) -> bool:
    """Whether something else runs when the module is called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module_globals._global_forward_hooks
        or module_globals._global_forward_pre_hooks
    )
