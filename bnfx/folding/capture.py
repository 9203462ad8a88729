"""A graph of what a model does on example inputs, as Dynamo captures it."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import fx, nn
from torch.export import Dim
from torch.fx.experimental import _config as _found_config
from torch.utils import _pytree as pytree

from bnfx.errors import CaptureError
from bnfx.folding.given import WAY_OUT
from bnfx.folding.plain_graph import plain_graph
from bnfx.folding.state_changes import check_side_effects
from bnfx.passes.fx.metadata import value_of
from bnfx.torch_private import export_to_torch_ir

_CONFIG: Any = _found_config


def capture(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> fx.GraphModule:
    """The graph of ``model(*args, **kwargs)``, with sizes left open where the model leaves them.

    It is captured by Dynamo, as ``torch.compile`` does it and the first half of
    ``torch.export(strict=True)``: the code is followed on the inputs at hand, so ``x is None``,
    ``isinstance`` and ``try`` go where they go in a call. If sizes cannot be left open, all are
    those of the example, and asserted.

    Args:
        model: a copy; it takes these inputs.
        args, kwargs: inputs; they are not changed.

    Raises:
        CaptureError: if there is no one graph of it.
    """
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    first: Exception | None = None
    for sizes in (_open(bound, {}), None):
        try:
            module, spec, messages = _captured(model, bound, sizes)
            check_side_effects(model, messages)
            if sizes is not None and (tied := _tied(module, bound)):
                module, spec, _ = _captured(model, bound, _open(bound, tied))
            return plain_graph(module, spec, bound, type(model).__name__)
        except CaptureError:
            raise
        except Exception as error:
            first = first or error
    assert first is not None
    lines = [line.strip() for line in str(first).splitlines() if line.strip()] or [repr(first)]
    why = next((line.partition("got ")[2] for line in lines if "got " in line), lines[0])
    raise CaptureError(
        f"torch.export cannot capture {type(model).__name__} in one graph: {why}. {WAY_OUT}"
    ) from first


def _captured(
    model: nn.Module, bound: inspect.BoundArguments, sizes: Any
) -> tuple[fx.GraphModule, pytree.TreeSpec, list[str]]:
    """A graph of flat inputs and outputs, the structure of the outputs, and torch's warnings."""
    with (
        torch.no_grad(),
        torch.random.fork_rng(),
        warnings.catch_warnings(record=True) as caught,
        _quiet("torch.export._trace", "torch.fx.experimental.symbolic_shapes", "torch._dynamo"),
        _CONFIG.patch(backed_size_oblivious=True),  # else a batch of 1 would be one for good
    ):
        warnings.simplefilter("always")
        module, spec = export_to_torch_ir(model, bound.args, bound.kwargs, sizes)
    return module, spec, [str(warning.message) for warning in caught]


_Axes = Mapping[int, set[int]]  # of a tensor, by its id


def _tied(module: fx.GraphModule, bound: inspect.BoundArguments) -> _Axes:
    """Axes of which some expression must equal another, as where a linear layer takes C*H*W.

    Nothing but the example's sizes meets that in practice; with them fixed, more folds.
    """
    places = module.graph.find_nodes(op="placeholder")
    values = pytree.tree_leaves((bound.args, bound.kwargs))
    shown = [(id(value), value_of(place)) for place, value in zip(places, values, strict=True)]
    found: dict[int, set[int]] = {}
    for tensor, axis, size in _open_sizes(shown):
        env: Any = size.node.shape_env
        guards = (env.replace(guard.expr) for guard in env.guards)
        ties = [guard for guard in guards if isinstance(guard, sympy.Eq)]
        if any(size.node.expr.free_symbols & tie.free_symbols for tie in ties):
            found.setdefault(tensor, set()).add(axis)
    return found


def _open_sizes(
    shown: Sequence[tuple[int, torch.Tensor | None]],
) -> Iterator[tuple[int, int, torch.SymInt]]:
    for tensor, value in shown:
        for axis, size in enumerate(() if value is None else value.shape):
            if isinstance(size, torch.SymInt):
                yield tensor, axis, size


def _open(bound: inspect.BoundArguments, tied: _Axes) -> dict[str, Any]:
    """All sizes open that may be: an axis of size 1 may stand there to be broadcast."""
    sizes: dict[str, Any] = {}
    tensors = [v for v in pytree.tree_leaves(dict(bound.arguments)) if isinstance(v, torch.Tensor)]
    ones = all(tensor.shape[0] == 1 for tensor in tensors if tensor.dim() > 1)

    def open_tensor(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return None
        fixed = {axis for axis, size in enumerate(value.shape) if size == 1}
        if value.dim() > 1 and ones:
            fixed.discard(0)
        fixed |= tied.get(id(value), set())
        return {axis: Dim.STATIC if axis in fixed else Dim.AUTO for axis in range(value.dim())}

    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            sizes |= pytree.tree_map(open_tensor, value)
        else:
            sizes[name] = pytree.tree_map(open_tensor, value)
    return sizes


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Without log lines of failures that are told in other words, or tried in another way."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
