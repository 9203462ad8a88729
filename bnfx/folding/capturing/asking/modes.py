"""What a model's code asks of the modes that a thread is in, which no tensor tells."""

from __future__ import annotations

import contextlib
import cProfile
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

GRADIENTS = "the mode of gradients"
AUTOCAST = "the mode of autocast"
DTYPE = "the default dtype"
ASKING = {"is_grad_enabled": GRADIENTS, "get_default_dtype": DTYPE} | dict.fromkeys(
    (
        "is_autocast_enabled",
        "is_autocast_cpu_enabled",
        "get_autocast_dtype",
        "get_autocast_cpu_dtype",
        "get_autocast_gpu_dtype",
    ),
    AUTOCAST,
)


def asked_mode(frame: FrameType, event: str, function: Any) -> str | None:
    """The mode that a call of a C function asks for, if that is not torch's or ours."""
    if event != "c_call" or getattr(function, "__name__", "") not in ASKING:
        return None
    return ASKING[function.__name__] if is_users(frame) else None


def module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def is_pythons(module: str) -> bool:
    """Whether a module is of the standard library, by its name."""
    return module.partition(".")[0] in sys.stdlib_module_names


def is_users(frame: FrameType) -> bool:
    """Whether the code that runs there is other than torch's and ours."""
    return module_of(frame).partition(".")[0] not in ("torch", "bnfx")


@contextlib.contextmanager
def profiled(note: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    """Have all calls of this thread noted."""
    before: Any = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        if isinstance(before, cProfile.Profile):
            before.enable()  # sys.setprofile refuses it
        else:
            sys.setprofile(before)
