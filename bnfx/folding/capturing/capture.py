"""A graph of what a model does on example inputs, as ``torch.export`` captures it."""

from __future__ import annotations

import inspect
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.fx.experimental import _config as _found_config
from torch.utils import _pytree as pytree

from bnfx.errors import CaptureError
from bnfx.folding.capturing.asking.asked import NOTHING, Asked
from bnfx.folding.capturing.asking.questions import apart, tells_tensors_apart
from bnfx.folding.capturing.opened_sizes import limited_sizes, marks_kept, open_axes, tied_axes
from bnfx.folding.capturing.plain_graph import plain_graph
from bnfx.folding.capturing.recurrent_shapes import recurrent_shapes
from bnfx.folding.capturing.state_changes import StateError, check_side_effects
from bnfx.folding.capturing.taken_arguments import check_arguments
from bnfx.folding.given import WAY_OUT, copied
from bnfx.folding.global_state import generators_kept, state_kept
from bnfx.folding.verify import answer_to
from bnfx.passes.fx.metadata import readable_path
from bnfx.torch_private import export_to_torch_ir

_LOGGERS = (
    "torch.export._trace",
    "torch.fx.experimental.symbolic_shapes",
    "torch._dynamo",
    "torch._subclasses.fake_tensor",
)
_MODES = ("_enter_", "_exit_", "_set_")
_CONFIG: Any = _found_config


def capture(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    fixed: bool = False,
    asked: Asked = NOTHING,
) -> fx.GraphModule:
    """The graph of ``model(*args, **kwargs)``, with sizes left open where the model leaves them.

    It is captured by Dynamo, which follows the code on the inputs at hand: ``x is None``,
    ``isinstance``, ``try`` go where they go in a call. That is the first half of
    ``torch.export(strict=True)``; where the graph holds graphs of its own, or ``vmap``, the second
    half takes them apart. If sizes cannot be left open, all are those of the example, and asserted.

    Args:
        model: a copy; it takes these inputs.
        args, kwargs: inputs; they are not changed.
        fixed: leave no size open.
        asked: what the model's code asks of tensors, which the graph is to assert.

    Raises:
        CaptureError: if there is no one graph of it.
    """
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    given = frozenset(bound.arguments)
    bound.apply_defaults()
    check_arguments(type(model).__name__, bound, given)
    if tells_tensors_apart(lambda b: answer_to(copied(model), b.args, b.kwargs), bound):
        asked = replace(asked, identities=True)
    else:
        bound = apart(bound)
    first: Exception | None = None
    for sizes in (None,) if fixed else (open_axes(bound, {}), None):
        try:
            with marks_kept((bound.args, bound.kwargs)):
                return _captured(model, bound, sizes, asked)
        except StateError:
            raise
        except Exception as error:
            first = first or error
    assert first is not None
    lines = [line.strip() for line in str(first).splitlines() if line.strip()] or [repr(first)]
    why = next((line.partition("got ")[2] for line in lines if "got " in line), lines[0])
    why = why.rstrip(".")
    raise CaptureError(
        f"torch.export cannot capture {type(model).__name__} in one graph: {why}. {WAY_OUT}"
    ) from first


def _captured(
    model: nn.Module, bound: inspect.BoundArguments, sizes: Any, asked: Asked, tied: bool = False
) -> fx.GraphModule:
    kind = type(model).__name__
    if export_to_torch_ir is None:
        return _whole_export(model, bound, sizes, asked)
    with _capturing() as caught, recurrent_shapes():
        graph = export_to_torch_ir(
            model, bound.args, bound.kwargs, dynamic_shapes=sizes, restore_fqn=False
        )
    check_side_effects(model, [str(each.message) for each in caught])
    if sizes is not None and not tied and (axes := tied_axes(graph, bound)):
        return _captured(model, bound, open_axes(bound, axes), asked, tied=True)
    info = graph.graph._codegen.pytree_info
    places = graph.graph.find_nodes(op="placeholder")
    leaves = pytree.tree_leaves((bound.args, bound.kwargs))
    if (
        info.out_spec is not None
        and len(places) == len(leaves)
        and all(map(_is_described, places, leaves))
        and _is_flat(graph)
    ):
        return plain_graph(_with_paths(graph, model), info.out_spec, bound, kind, asked)
    return _whole_export(model, bound, sizes, asked)


def _whole_export(
    model: nn.Module, bound: inspect.BoundArguments, sizes: Any, asked: Asked
) -> fx.GraphModule:
    with _capturing() as caught:
        program = torch.export.export(
            model, bound.args, bound.kwargs, dynamic_shapes=sizes, strict=True
        )
    check_side_effects(model, [str(each.message) for each in caught])
    spec = program.call_spec.out_spec
    assert spec is not None
    module = program.module(check_guards=False)
    return plain_graph(module, spec, bound, type(model).__name__, asked)


def _is_described(place: fx.Node, value: Any) -> bool:
    """Whether it is known what was decided about a tensor: not so of those not computed with."""
    return not isinstance(value, torch.Tensor) or "val" in place.meta


def _is_flat(module: fx.GraphModule) -> bool:
    """Whether each node computes what it says; no graph of its own, and no ``vmap`` around it."""
    for node in module.graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return False
        if "functorch" in str(getattr(node.target, "__module__", "")):
            return False
        if getattr(node.target, "__name__", "").startswith(_MODES):
            return False  # autocast, gradients: a GraphModule that is unpickled would lose it
    return True


def _with_paths(module: fx.GraphModule, model: nn.Module) -> fx.GraphModule:
    """The graph with parameters and modules named as the model names them."""
    named = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
        *model.named_modules(),
    )
    paths = {id(value): path for path, value in reversed(named)}
    root: dict[str, Any] = {}
    for node in module.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack:
            node.meta["nn_module_stack"] = {
                key: (_own_path(path), kind) for key, (path, kind) in stack.items()
            }
        if node.op in ("get_attr", "call_module"):
            value = operator.attrgetter(str(node.target))(module)
            node.target = paths.get(id(value), node.target)
            root[node.target] = value
    module.graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(root, module.graph, "Captured")


def _own_path(path: str) -> str:
    """``L['self']._export_root.a.b`` -> ``a.b``."""
    return readable_path(path).removeprefix("_export_root").lstrip(".")


@contextmanager
def _capturing() -> Iterator[list[warnings.WarningMessage]]:
    """Quietly; the warnings, which tell of side effects, are handed over."""
    with (
        torch.no_grad(),
        generators_kept(),
        state_kept(),
        limited_sizes(),
        warnings.catch_warnings(record=True) as caught,
        _quiet(*_LOGGERS),
        _CONFIG.patch(backed_size_oblivious=True),  # else a batch of 1 would be one for good
    ):
        warnings.simplefilter("always")
        yield caught


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
