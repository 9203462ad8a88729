"""The largest parts of a model that can be traced, and who ran what while they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from bnfx.errors import CaptureError
from bnfx.folding.capture import Tracer, copied, trace
from bnfx.folding.modules.callers import Callers


@dataclass(frozen=True)
class Part:
    """A submodule that was traced.

    Args:
        path: of it in the model; ``""`` for the model itself.
        traced: its graph.
        callers: what ran meanwhile.
        inputs: what it is called with, where that is known.
    """

    path: str
    traced: fx.GraphModule
    callers: Callers
    inputs: tuple[Any, ...]


class _Watching(Tracer):
    def __init__(self, callers: Callers) -> None:
        super().__init__()
        self._callers = callers

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self._callers.note_call(self.path_of_module(m))
        return super().call_module(m, forward, args, kwargs)


def traced_parts(model: nn.Module, inputs: Sequence[Any]) -> list[Part]:
    """The model, or where it cannot be traced, its largest submodules that can.

    Only submodules with running statistics count.

    Args:
        model: a copy: tracing may leave things behind in it.
        inputs: of the model, to find those of its parts.

    Raises:
        CaptureError: if there is no such part.
    """
    failures: list[CaptureError] = []
    parts = list(_parts("", model, model, inputs, {}, failures))
    if failures and not parts:
        raise failures[0]
    return parts


def _parts(
    path: str,
    module: nn.Module,
    whole: nn.Module,
    inputs: Sequence[Any],
    seen: dict[str, tuple[Any, ...] | None],
    failures: list[CaptureError],
) -> Iterator[Part]:
    """The largest submodules that can be traced, with what they are called with."""
    if not any(isinstance(getattr(m, "running_var", None), torch.Tensor) for m in module.modules()):
        return
    callers = Callers()
    try:
        with callers.watch(module):
            traced = trace(module, _Watching(callers))
    except CaptureError as error:
        failures.append(error)
        if inputs and not seen:
            seen.update(_record(whole, inputs))
        for name, child in module.named_children():
            below = f"{path}.{name}" if path else name
            yield from _parts(below, child, whole, inputs, seen, failures)
        return
    own = inputs if not path else (seen.get(path) or ())
    yield Part(path, traced, callers, tuple(own))


def _record(model: nn.Module, inputs: Sequence[Any]) -> dict[str, tuple[Any, ...] | None]:
    """What each submodule is first called with; ``None`` where that has keywords."""
    model = copied(model)
    found: dict[str, tuple[Any, ...] | None] = {}
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.setdefault(names[module], None if kwargs else args)

    for module in names:
        module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad(), torch.random.fork_rng():
            model(*copied(tuple(inputs)))
    except Exception as error:
        raise CaptureError(f"the example inputs do not fit the model: {error}") from error
    return found
