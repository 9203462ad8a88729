"""The call of a model compiled with ``backend="bnfx"`` within which code runs, if any.

What Dynamo leaves outside of its graphs runs as plain Python, somewhere below the function that
``torch.compile`` put in front of the model. That function is found on the stack, and with it the
backend and its options. The stack holds whatever became of the frames between: skipped, past the
recompile limit, disabled by the user, or never looked at because they are torch's own.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from torch import nn

from bnfx.errors import OptionError
from bnfx.options import Options

_OURS: list[Callable[..., Any]] = []


@dataclass(frozen=True)
class CompiledCall:
    """A call of what ``torch.compile(..., backend="bnfx")`` returned.

    Args:
        options: of the backend.
        whole: whether nothing may run outside of its one graph (``fullgraph=True``).
    """

    options: Options
    whole: bool


def register_backend(backend: Callable[..., Any]) -> None:
    """Make calls of what is compiled with this backend known."""
    _OURS.append(backend)


def can_see_calls() -> bool:
    """Whether this torch has what the search goes by."""
    return bool(_entries())


def current_call() -> CompiledCall | None:
    """The innermost compiled call on this thread's stack, if bnfx compiled it.

    Raises:
        OptionError: if its options are not valid.
    """
    return _call_of(_entry_below(sys._getframe(1)))


def nearest_call() -> tuple[bool, CompiledCall | None]:
    """Whether a compiled call is on this thread's stack, of whatever backend; and the innermost, if
    bnfx compiled it.

    Raises:
        OptionError: if its options are not valid.
    """
    entry = _entry_below(sys._getframe(1))
    return entry is not None, _call_of(entry)


def call_around() -> CompiledCall | None:
    """The call of a model that bnfx compiled, within which another backend's call runs.

    ``None`` where the innermost compiled call on this thread's stack is ours.

    Raises:
        OptionError: if its options are not valid.
    """
    entry = _entry_below(sys._getframe(1))
    if entry is None or _call_of(entry) is not None:
        return None
    while entry is not None:
        entry = _entry_below(entry.f_back)
        if (call := _call_of(entry)) is not None:
            return call
    return None


def call_of_another_thread(module: nn.Module) -> CompiledCall | None:
    """The compiled call within which another thread runs a model that has ``module``."""
    if threading.active_count() == 1:
        return None
    here = threading.get_ident()
    for thread, frame in sys._current_frames().items():
        if thread == here:
            continue
        frames = list[FrameType]()
        call = _call_of(_entry_below(frame, frames.append))
        model = None if call is None else _model_in(frames)
        if model is not None and any(each is module for each in model.modules()):
            return call
    return None


def _call_of(entry: FrameType | None) -> CompiledCall | None:
    if entry is None:
        return None
    scope = entry.f_locals
    options = options_of(scope.get("callback"))
    if options is None:
        return None
    return CompiledCall(options, bool(getattr(scope.get("self"), "fullgraph", False)))


def path_in_call(module: nn.Module) -> str | None:
    """Where ``module`` stands in the model whose compiled call is on the stack; for messages."""
    frames = list[FrameType]()
    entry = _entry_below(sys._getframe(1), frames.append)
    model = None if entry is None else _model_in(frames)
    return None if model is None else path_in(model, module)


def path_in(model: nn.Module, module: nn.Module) -> str:
    """Where ``module`` stands in ``model``; for messages."""
    paths = (path for path, each in model.named_modules() if each is module)
    return next(paths, "") or type(module).__name__


def _model_in(frames: Sequence[FrameType]) -> nn.Module | None:
    """The outermost module whose method is among the frames, which are given innermost first."""
    owners = (frame.f_locals.get("self") for frame in reversed(frames))
    return next((owner for owner in owners if isinstance(owner, nn.Module)), None)


def _entry_below(
    frame: FrameType | None, passed: Callable[[FrameType], Any] | None = None
) -> FrameType | None:
    """The innermost compiled call, of any backend, within which ``frame`` runs.

    Args:
        passed: is called with each frame on the way, ``frame`` first.
    """
    entries = _entries()
    while frame is not None and id(frame.f_code) not in entries:
        if passed is not None:
            passed(frame)
        frame = frame.f_back
    return frame


def _entries() -> frozenset[int]:
    """The ids of the code that runs in front of a compiled model."""
    global _codes
    if _codes is None:
        from torch._dynamo import eval_frame

        context = getattr(eval_frame, "_TorchDynamoContext", None)
        call = vars(context or object).get("__call__")
        code = getattr(call and inspect.unwrap(call), "__code__", None)
        inner = [each for each in getattr(code, "co_consts", ()) if isinstance(each, CodeType)]
        _codes = frozenset(id(each) for each in inner if "callback" in each.co_freevars)
    return _codes


_codes: frozenset[int] | None = None


def options_of(callback: Any) -> Options | None:
    """The options of the backend behind Dynamo's callback; ``None`` if it is not ours, or if they
    are wrong: then it runs nothing, and says so where it is to compile.
    """
    while hasattr(callback, "_torchdynamo_orig_backend"):
        callback = callback._torchdynamo_orig_backend
    known = getattr(callback, "_bnfx_options", None)
    if isinstance(known, Options):
        return known
    function = getattr(callback, "compiler_fn", callback)
    keywords: Mapping[str, Any] = getattr(callback, "kwargs", {})
    while hasattr(function, "func") and hasattr(function, "keywords"):
        keywords = {**function.keywords, **keywords}
        function = function.func
    if not any(function is each for each in _OURS):
        return None
    try:
        options = Options.parse(keywords.get("options"))
    except OptionError:
        return None
    if callback is not function:  # what torch.compile made for this one call of it
        callback._bnfx_options = options
    return options
