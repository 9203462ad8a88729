"""Which sizes a capture leaves open; within reason.

A layer that pads by ``max((ceil(h / s) - 1) * s + k - h, 0)``, as TensorFlow's "same" padding does,
writes the size that it is given several times into the size that it gives. After some tens of such
layers, no computer can compare two of them any more. The capture with open sizes then ends, and
sizes are those of the example.
"""

from __future__ import annotations

import contextvars
import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import fx
from torch.export import Dim
from torch.utils import _pytree as pytree

from bnfx.passes.fx.metadata import value_of
from bnfx.torch_private import ShapeEnv

MOST_PARTS = 300  # of an expression; 43 in GoogLeNet, 95 in EfficientViT
_MARK = "_dynamo_"
_limited = contextvars.ContextVar("bnfx_size_limits", default=False)


class UnboundedSizesError(Exception):
    """Sizes that are too long an expression."""


@contextmanager
def limited_sizes() -> Iterator[None]:
    """While this holds, :class:`UnboundedSizesError` is raised where sizes are compared that have
    more than ``MOST_PARTS`` parts.
    """
    _install()
    token = _limited.set(True)
    try:
        yield
    finally:
        _limited.reset(token)


def _install() -> None:
    """Put ours before torch's, for good: others get what they always got."""
    original: Any = getattr(ShapeEnv, "evaluate_expr", None)
    if original is None or hasattr(original, "bnfx_original"):
        return

    def evaluate_expr(self: Any, orig_expr: Any, *args: Any, **kwargs: Any) -> Any:
        if _limited.get() and isinstance(orig_expr, sympy.Basic):
            parts = sympy.preorder_traversal(orig_expr)
            if next(itertools.islice(parts, MOST_PARTS, None), None) is not None:
                raise UnboundedSizesError(f"sizes of more than {MOST_PARTS} parts are compared")
        return original(self, orig_expr, *args, **kwargs)

    evaluate_expr.bnfx_original = original  # type: ignore[attr-defined]
    ShapeEnv.evaluate_expr = evaluate_expr


_Axes = Mapping[int, set[int]]  # of a tensor, by its id


def tied_axes(module: fx.GraphModule, bound: inspect.BoundArguments) -> _Axes:
    """Axes of which some expression must equal another, as where a linear layer takes C*H*W.

    Nothing but the example's sizes meets that in practice; with them fixed, more folds.
    """
    places = module.graph.find_nodes(op="placeholder")
    values = pytree.tree_leaves((bound.args, bound.kwargs))
    shown = [(id(value), value_of(place)) for place, value in zip(places, values, strict=False)]
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


def open_axes(bound: inspect.BoundArguments, tied: _Axes) -> dict[str, Any]:
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
def marks_kept(values: Any) -> Iterator[None]:
    """Put back the marks of all tensors in ``values``, those of ``mark_dynamic`` among them.

    With those of a capture that failed, the next one would open sizes that it is to fix; and a
    later ``torch.compile`` of the user's would open sizes that nobody spoke of.
    """
    tensors = [each for each in pytree.tree_leaves(values) if isinstance(each, torch.Tensor)]
    before = [_marks(tensor) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, marks in zip(tensors, before, strict=True):
            for name in _marks(tensor).keys() - marks.keys():
                delattr(tensor, name)
            for name, value in marks.items():
                setattr(tensor, name, value)


def _marks(tensor: torch.Tensor) -> dict[str, Any]:
    found = {k: v for k, v in getattr(tensor, "__dict__", {}).items() if k.startswith(_MARK)}
    return {name: set(v) if isinstance(v, set) else v for name, v in found.items()}
