"""BatchNorms that Dynamo leaves outside of its graphs share their statistics all the same.

The backend sees graphs. A BatchNorm may run in none: behind a graph break, past the recompile
limit, below a frame of torch's own that Dynamo never starts on, in what the user disabled. So the
forward of BatchNorm itself, in training, looks whether it runs within a call of a model that bnfx
compiled (:mod:`bnfx.sync.graphs.compiled_call`), and shares its statistics if so. Elsewhere, and in
graphs, it is torch's own forward, untouched.

Nor must there be such a call: ``compiled.backbone(x)`` runs a part of the model by itself, which
belongs to it all the same (:mod:`bnfx.sync.graphs.compiled_models`).

A backward pass that computes a layer again (activation checkpointing, reversible blocks) may run
outside of that call. It goes by what the layer did before.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from bnfx.passes.fx.training.covers import covering
from bnfx.passes.fx.training.uncaptured import batch_norm_to_swap
from bnfx.sync.functional import Layer, synchronise
from bnfx.sync.graphs.compiled_call import current_call
from bnfx.sync.graphs.ownership import (
    identity_outside,
    path_of,
    peers_outside,
    say_own_arithmetic,
)
from bnfx.sync.graphs.state import current_state
from bnfx.sync.graphs.unshared import say_other_backend
from bnfx.sync.group import Peers, is_recomputing
from bnfx.sync.module import SyncBatchNorm, tracked


def cover_batch_norms() -> None:
    """Put the look-out into the forward of BatchNorm, and of each class derived from it.

    Those that are yet to be derived, too: a model may be built of a class that was written, or
    imported, after something was compiled. Not into classes that synchronise by themselves: torch's
    ``SyncBatchNorm``, and ours.
    """
    for kind in (_BatchNorm, *_derived(_BatchNorm)):
        _cover(kind)
    if "__init_subclass__" not in vars(_BatchNorm):
        setattr(_BatchNorm, "__init_subclass__", classmethod(_cover_at_birth))  # noqa: B010


def _cover(kind: type) -> None:
    forward = vars(kind).get("forward")
    if not isinstance(forward, types.FunctionType) or hasattr(forward, "_bnfx_covers"):
        return
    if not issubclass(kind, (SyncBatchNorm, nn.SyncBatchNorm)):
        setattr(kind, "forward", _covering(forward))  # noqa: B010


def _cover_at_birth(kind: type[_BatchNorm], /, **given: Any) -> None:
    super(_BatchNorm, kind).__init_subclass__(**given)
    _cover(kind)


def _derived(kind: type) -> Iterator[type]:
    each: type
    for each in kind.__subclasses__():
        yield each
        yield from _derived(each)


def _covering(original: types.FunctionType) -> Callable[..., torch.Tensor]:
    """``original``, with the look-out in front of it."""
    is_compiling, plain = torch.compiler.is_compiling, original is _TORCH_FORWARD
    peers, outside, captured, inside = peers_outside, _outside, _captured, _inside
    other = say_other_backend

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            if not is_compiling():
                found = peers(self)
                if found is not None:
                    return outside(original, self, found, args, kwargs)
            else:
                if plain and len(args) + len(kwargs) == 1 and (args or "input" in kwargs):
                    given = args[0] if args else kwargs["input"]
                    if captured(self, given):
                        return inside(self, given)
                other()
        return original(self, *args, **kwargs)

    result = covering(original, forward)
    setattr(result, "_bnfx_covers", True)  # noqa: B010
    return result


_TORCH_FORWARD = _BatchNorm.forward
_captured_call = torch.compiler.allow_in_graph(batch_norm_to_swap)  # type: ignore[no-untyped-call]


@torch._dynamo.disable  # type: ignore[untyped-decorator]
def _outside(
    original: Callable[..., torch.Tensor],
    module: nn.Module,
    peers: Peers,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> torch.Tensor:
    sharing, around = _Sharing(module, peers), getattr(_local, "sharing", None)
    _local.sharing = sharing
    try:
        with sharing:
            output: torch.Tensor = original(module, *args, **kwargs)
    finally:
        _local.sharing = around
    if not sharing.met:
        say_own_arithmetic(module)
    elif around is not None:  # super().forward(x)
        around.met = True
    return output


_local = threading.local()


class _Sharing(TorchFunctionMode):
    """Within it, BatchNorm shares its statistics."""

    def __init__(self, module: nn.Module, peers: Peers) -> None:
        super().__init__()
        self._module, self._peers = module, peers
        self.met = False  # whether any BatchNorm was computed

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.batch_norm:
            return self._with_weights_first(*args, **kwargs)
        if func is not F.batch_norm:
            return func(*args, **kwargs)
        return self._batch_norm(*args, **kwargs)

    def _with_weights_first(
        self,
        input: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool,
    ) -> torch.Tensor:
        statistics = running_mean, running_var
        return self._batch_norm(input, *statistics, weight, bias, training, momentum, eps)

    def _batch_norm(
        self,
        input: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> torch.Tensor:
        self.met = True
        if not training:
            return F.batch_norm(
                input, running_mean, running_var, weight, bias, training, momentum, eps
            )
        if is_recomputing() and running_mean is not None and running_var is not None:
            running_mean, running_var = running_mean.clone(), running_var.clone()
        name = path_of(self._module)
        identity = identity_outside(self._module)
        layer = Layer(input, running_mean, running_var, weight, bias, momentum, eps, name, identity)
        # With a token, as in graphs: a peer may still run this layer in one.
        return synchronise([layer], self._peers, input.new_zeros(1, dtype=layer.dtype))[0]


def _captured(module: nn.Module, input: torch.Tensor) -> bool:
    """Whether to capture a layer that Dynamo cannot capture, as one that shares its statistics.

    With ``momentum=None``, torch's forward reads its counter as a number; and it refuses a batch of
    one value a channel, though all ranks together may well have more.
    """
    alone = input.dim() >= 2
    for axis, size in enumerate(input.shape):
        alone = alone and (axis == 1 or size == 1)
    averages = module.momentum is None and module.track_running_stats
    return (alone or averages) and _is_captured_to_share()


def _inside(module: Any, input: torch.Tensor) -> torch.Tensor:
    module._check_input_dim(input)
    mean, var, momentum = tracked(module)
    affine = module.weight, module.bias
    output: torch.Tensor = _captured_call(input, mean, var, *affine, True, momentum, module.eps)
    return output


@torch._dynamo.assume_constant_result  # type: ignore[untyped-decorator]
def _is_captured_to_share() -> bool:
    """Whether what is being captured is for our backend, which will make it share statistics."""
    call = current_call()
    if call is None or call.options.sync == "off":
        return False
    try:
        return current_state(call.options.process_group).peers is not None
    except ValueError:
        return False  # the backend says so
