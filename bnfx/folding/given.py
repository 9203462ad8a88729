"""What is asked of a model before it is captured, and copies of it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from bnfx.errors import CaptureError
from bnfx.folding.global_state import generators_kept, state_kept
from bnfx.folding.modules.tree import below, is_name, is_scripted, modules_of

WAY_OUT = (
    'keep="module", assume="example" needs no graph, if all calls are like the example, and '
    'torch.compile(model, backend="bnfx") no whole one'
)


ASSUMES = "_bnfx_assumes"  # an attribute of a folded model: what its user vouched for


@dataclass(frozen=True)
class ExampleInputs:
    """Example inputs, as the user gave them.

    Args:
        args, kwargs: what the model is called with.
        fixed: whether a graph may rest on their sizes, and takes no others.
        captures: graphs of models on them, or why there is none, by the id of the model, which
            lives as long as these inputs.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    fixed: bool = False
    captures: dict[int, fx.GraphModule | CaptureError] = field(default_factory=dict, compare=False)

    def __bool__(self) -> bool:
        return bool(self.args or self.kwargs)

    def copied(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Copies, which the model may write to."""
        args, kwargs = copied((self.args, dict(self.kwargs)))
        return args, kwargs


def unwrap(model: nn.Module) -> nn.Module:
    """The user's module behind what ``torch.compile`` returned."""
    original = getattr(model, "_orig_mod", model)
    return original if isinstance(original, nn.Module) else model


def is_training(model: nn.Module) -> bool:
    """Whether the model, as it would run, is in training mode.

    A ``GraphModule`` has no behaviour of its own: the modules that it calls have. (What
    ``torch.export`` gives is marked as training for good, and its calls carry their own flags.)
    """
    if not isinstance(model, fx.GraphModule):
        return model.training
    called = (model.get_submodule(node.target) for node in model.graph.find_nodes(op="call_module"))
    own = (module for module in called if not type(module).__module__.startswith("torch.export"))
    return any(is_training(module) for module in own)


def check_traceable(model: nn.Module) -> None:
    """Raise :class:`CaptureError` for what tracing and copying would lose without a word."""
    kind = type(model).__name__
    hooks = (*model._forward_hooks.values(), *model._forward_pre_hooks.values())
    if not all(getattr(hook, "__module__", "").startswith("torch.export") for hook in hooks):
        raise CaptureError(f"{kind} has forward hooks, which a graph cannot hold. {WAY_OUT}")
    check_names(model)
    if not isinstance(model, fx.GraphModule):
        check_own_forward(model)


def check_names(model: nn.Module) -> None:
    """Raise :class:`CaptureError` for a name that a path of names does not lead to.

    ``add_module`` refuses these, but a table such as ``_modules`` takes any. Of ``"c.d"``, tracers
    and exporters read the ``d`` of ``c``.
    """
    for path, module in modules_of(model):
        for name in (*module._modules, *module._parameters, *module._buffers):
            if not is_name(name):
                kind = type(module).__name__
                raise CaptureError(
                    f"{path or kind} has {name!r} for the name of a part, which no graph can tell "
                    f"from a path; name it without dots. {WAY_OUT}"
                )


def check_scripted(model: nn.Module) -> None:
    """Raise :class:`CaptureError` for TorchScript, whose code no capture can read."""
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(
            "the model is a TorchScript module, which cannot be captured; fold the Python model, "
            "and script or trace the result"
        )


def check_no_scripted(model: nn.Module) -> None:
    """Raise :class:`CaptureError` if any of ``model`` is TorchScript: a graph is of the whole."""
    check_scripted(model)
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(
                f"{path} is TorchScript, whose code no graph can hold; fold the Python model, and "
                f"script or trace the result. {WAY_OUT}"
            )


def check_own_forward(model: nn.Module) -> None:
    """Raise :class:`CaptureError` unless calling ``model`` runs the forward of its class."""
    kind = type(model).__name__
    called = ("__call__", "_call_impl", "_wrapped_call_impl", "_slow_forward")
    own = any(
        getattr(type(model), name, None) is not getattr(nn.Module, name, None) for name in called
    )
    if own or "forward" in vars(model):
        raise CaptureError(
            f"{kind} replaces __call__ or its own forward, so that its class does not say what it "
            'computes; torch.compile(model, backend="bnfx") folds what it runs'
        )


def copied(value: Any) -> Any:
    """A deep copy, without the history of gradients of what was computed (features of a backbone as
    inputs, weights that pruning or ``weight_norm`` computes).

    Raises:
        CaptureError: if there can be none, as of lazy modules.
    """
    memo: dict[int, Any] = {}
    try:
        for tensor in _tensors(value):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
        with torch.inference_mode(False), torch.no_grad():  # copies that can be trained later
            return copy.deepcopy(value, memo)
    except Exception as error:
        raise CaptureError(f"{type(value).__name__} cannot be copied: {error}") from error


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Code of the model runs on copies inside of it; its own tensors, torch's modes and random
    numbers stay as they are.

    Raises:
        CaptureError: if one was written to all the same: code has it by a closure, or by a global,
            neither of which a copy copies. Buffers are as they were, then.
    """
    owned = [
        (below(path, name), tensor)
        for path, module in modules_of(model)
        if not is_scripted(module)
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and not tensor.is_inference()
    ]
    versions = [tensor._version for _, tensor in owned]
    saved = {path: t.detach().clone() for path, t in owned if not isinstance(t, nn.Parameter)}
    written: list[str] = []
    try:
        with generators_kept(), state_kept():
            yield
    finally:
        for (path, tensor), version in zip(owned, versions, strict=True):
            if tensor._version != version:
                written.append(path)
                if path in saved:
                    with torch.no_grad():
                        tensor.copy_(saved[path])
    if written:
        raise CaptureError(
            f"code of {type(model).__name__} writes to {written[0]} by a closure or a global, "
            "and so to the model's own where a copy runs; have it as an attribute, or use "
            'torch.compile(model, backend="bnfx")'
        )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Those that inputs hold, or modules beside their parameters."""
    held: Any = [value]
    if isinstance(value, nn.Module):
        held = [list(vars(module).values()) for module in value.modules()]
    yield from (each for each in pytree.tree_leaves(held) if isinstance(each, torch.Tensor))
