"""One compiled graph of a model, and how a call reaches it without Dynamo."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._dynamo import eval_frame
from torch._dynamo.mutation_guard import GenerationTracker
from torch.fx._symbolic_trace import is_fx_symbolic_tracing
from torch.nn.modules.module import _has_any_global_hook

from bnfx.direct.frame import Frame
from bnfx.direct.guard_tree import without_model
from bnfx.direct.straight_code import Straight, read_code
from bnfx.direct.symbols import Constant, Given, Output, Own, Size
from bnfx.direct.watched import NotDirectError, Watched

Scope = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Shortcut:
    """What serves calls that look like the one that it was made of.

    Args:
        holds: whether nothing was assigned in the model since.
        fits: Dynamo's other guards; takes the local variables of a call.
        exists: ``None`` once Dynamo dropped the code.
        call: the compiled graph.
        arguments: of the graph, with gaps for those of the call.
        filled: for each gap where it is, and what is there, of the local variables.
        build: what the call returns, of the graph's outputs and the local variables.
    """

    holds: Callable[[], bool]
    fits: Callable[[Scope], bool]
    exists: Callable[[], object]
    call: Callable[..., Any]
    arguments: Sequence[Any]
    filled: Sequence[tuple[int, Callable[[Scope], Any]]]
    build: Callable[[Any, Scope], Any]

    @staticmethod
    def of(
        model: nn.Module,
        compiled: nn.Module,
        frame: Frame,
        backend: object,
        scope: Scope,
        watched: Watched,
        holds: Callable[[], bool],
    ) -> Shortcut:
        """For the graph that answered the call with these local variables.

        Args:
            compiled: what torch.compile made of the model.
            backend: of torch.compile.
            watched: is given what is to be watched.
            holds: whether nothing was assigned in that.

        Raises:
            NotDirectError: if there is none.
        """
        entry = _entry(frame, backend, scope)
        for each in (model, compiled):
            _watch_call(each, watched)
        frame.watch(watched)
        fits = without_model(entry.guard_manager.root, model, scope, watched)
        straight = read_code(entry.code, frame.module_globals, frame.fixed, model, watched)
        inference = torch.is_inference_mode_enabled()
        if not fits(scope):
            raise NotDirectError("the guards that are left do not hold by themselves")
        arguments, filled = _arguments(straight)
        return Shortcut(
            holds,
            # The clone of the guards compares dispatch keys with those of when it was made.
            lambda scope: torch.is_inference_mode_enabled() is inference and fits(scope),
            weakref.ref(entry.code),
            # No frame is evaluated by Dynamo meanwhile: :func:`may_go_past_dynamo`.
            getattr(straight.call, "_torchdynamo_orig_callable", straight.call),
            arguments,
            filled,
            _builder(straight.returned),
        )

    def answer(self, scope: Scope) -> Any:
        """What the model answers; its guards hold."""
        # As torch.compile says it: CUDA graphs of Inductor write over the answers of earlier steps.
        GenerationTracker.generation += 1
        arguments = list(self.arguments)
        for at, find in self.filled:
            arguments[at] = find(scope)
        return self.build(self.call(*arguments), scope)


def _entry(frame: Frame, backend: object, scope: Scope) -> Any:
    """What Dynamo compiled of the frame for such a call."""
    for entry in eval_frame._debug_get_cache_entry_list(frame.code):
        if entry.backend == backend and entry.guard_manager.root.check(scope):
            return entry
    raise NotDirectError("Dynamo compiled nothing for such a call")


def _watch_call(module: nn.Module, watched: Watched) -> None:
    """Watch what decides which code a call of this module runs."""
    watched.add(module)
    for name, value in vars(module).items():
        # Those of loading and saving run in no call.
        if name.endswith("_hooks") and "state_dict" not in name and isinstance(value, dict):
            watched.add_empty(value)
    if getattr(module, "_compiled_call_impl", None) is not None:
        raise NotDirectError("the model was compiled by Module.compile")


def _arguments(straight: Straight) -> tuple[list[Any], list[tuple[int, Callable[[Scope], Any]]]]:
    arguments, filled = list[Any](), list[tuple[int, Callable[[Scope], Any]]]()
    for at, symbol in enumerate(straight.arguments):
        if isinstance(symbol, Given | Size):
            filled.append((at, _finder(symbol)))
        arguments.append(symbol.value if isinstance(symbol, Own | Constant) else None)
    return arguments, filled


def _finder(symbol: Given | Size) -> Callable[[Scope], Any]:
    if isinstance(symbol, Given) and symbol.names is None and not symbol.steps:
        name = symbol.name
        return lambda scope: scope[name]
    return symbol.of


def _builder(symbol: Any) -> Callable[[Any, Scope], Any]:
    """Makes what a symbol stands for: new lists and dicts each time."""
    if isinstance(symbol, Output):
        at = symbol.at
        return (lambda out, _: out) if at is None else (lambda out, _: out[at])
    if isinstance(symbol, Given | Size):
        find = _finder(symbol)
        return lambda _, scope: find(scope)
    if isinstance(symbol, Own | Constant):
        value = symbol.value
        return lambda *_: value
    if isinstance(symbol, Mapping):
        values = {key: _builder(each) for key, each in symbol.items()}
        return lambda out, scope: {key: each(out, scope) for key, each in values.items()}
    parts, kind = [*map(_builder, symbol)], type(symbol)
    return lambda out, scope: kind([part(out, scope) for part in parts])


def may_go_past_dynamo() -> bool:
    """Whether torch.compile would look at its guards now, and run what it compiled."""
    return (
        _stance().stance == "default"
        and not _modes()
        and not _is_tracing()
        and not _is_tracing_symbols()
        and getattr(_tracing, "tracing_context", None) is None
        and not _has_hooks()
        and _callback() is None
    )


def _stance() -> Any:
    return eval_frame._stance


_modes = torch._C._len_torch_dispatch_stack
_is_tracing = torch._C._is_tracing
_is_tracing_symbols = is_fx_symbolic_tracing
_tracing = torch._guards._TLS
# Within what torch.compile left outside of its graphs, it is to see what is called.
_callback: Callable[[], object] = torch._C._dynamo.eval_frame.get_eval_frame_callback
_has_hooks: Callable[[], bool] = _has_any_global_hook
