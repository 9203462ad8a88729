"""Which instructions of Python code run."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

# What takes the offsets of a frame; ``None`` where they are of no interest.
Choose = Callable[[FrameType], "set[int] | None"]


def note_instructions(choose: Choose) -> contextlib.AbstractContextManager[None]:
    """Add to ``choose(frame)`` the offset of each instruction that this thread runs in it."""
    # From 3.12 on, trace functions see the opcodes of frames that are traced already, at best.
    return _monitored(choose) if sys.version_info >= (3, 12) else _traced(choose)


@contextlib.contextmanager
def _traced(choose: Choose) -> Iterator[None]:
    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        seen = choose(frame)
        if seen is None:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False

        def step(frame: FrameType, event: str, arg: Any) -> Any:
            if event == "opcode":
                seen.add(frame.f_lasti)
            return step

        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)


@contextlib.contextmanager
def _monitored(choose: Choose) -> Iterator[None]:
    """PEP 669."""
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    events = monitoring.events
    thread = threading.get_ident()
    codes: set[CodeType] = set()

    def start(code: CodeType, offset: int) -> None:
        if (
            threading.get_ident() == thread
            and code not in codes
            and choose(sys._getframe(1)) is not None
        ):
            codes.add(code)
            monitoring.set_local_events(tool, code, events.INSTRUCTION)

    def step(code: CodeType, offset: int) -> None:
        seen = choose(sys._getframe(1)) if threading.get_ident() == thread else None
        if seen is not None:
            seen.add(offset)

    tool = next(number for number in (3, 4, 5, 2, 1, 0) if monitoring.get_tool(number) is None)
    monitoring.use_tool_id(tool, "bnfx")
    try:
        monitoring.register_callback(tool, events.PY_START, start)
        monitoring.register_callback(tool, events.INSTRUCTION, step)
        monitoring.set_events(tool, events.PY_START)
        yield
    finally:
        monitoring.set_events(tool, events.NO_EVENTS)
        for code in codes:
            monitoring.set_local_events(tool, code, events.NO_EVENTS)
        for event in (events.PY_START, events.INSTRUCTION):
            monitoring.register_callback(tool, event, None)
        monitoring.free_tool_id(tool)
