"""State of the process that decides what ops compute, and that code of a model may change for good.

``torch.set_default_dtype``, ``torch.set_grad_enabled``, ``random.seed`` and their like outlive the
call that they stand in: the next one, and all else that the process computes, runs otherwise. A
graph does not do that, and nobody expects of ``bnfx.fold`` that it does. The modes are those that
``torch.compile`` guards, for the same reason (its ``GlobalStateGuard``), and those of backends.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.backends import cuda, cudnn, mkldnn


@dataclass(frozen=True)
class _Part:
    """One of them.

    Args:
        name: in words what code does that changes it.
        read: gives it.
        write: sets it to what was read.
        comparable: makes of what was read what ``==`` compares.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    comparable: Callable[[Any], Any] = lambda value: value


def _flag(name: str, holder: Any, attribute: str) -> _Part:
    return _Part(name, partial(getattr, holder, attribute), partial(setattr, holder, attribute))


def _autocast(device: str) -> tuple[_Part, ...]:
    return (
        _Part(
            f"changes autocast on {device}",
            partial(torch.is_autocast_enabled, device),
            partial(torch.set_autocast_enabled, device),
        ),
        _Part(
            f"changes autocast's dtype on {device}",
            partial(torch.get_autocast_dtype, device),
            partial(torch.set_autocast_dtype, device),
        ),
    )


def _set_device(device: torch.device) -> None:
    """Unset is the CPU, and costs less."""
    torch.set_default_device(None if device.type == "cpu" else device)


_BACKENDS: Any = torch.backends
_CUDNN: Any = cudnn
_ONEDNN: Any = mkldnn
_NEWER = (cuda.matmul, _CUDNN.conv, _CUDNN.rnn, _ONEDNN.matmul, _ONEDNN.conv, _ONEDNN.rnn)


def _precisions() -> tuple[Any, ...]:
    """As the older flags say it, which raise where they cannot tell what the newer are; as those
    do.
    """
    older: list[Any] = []
    for read in (torch.get_float32_matmul_precision, lambda: cudnn.allow_tf32):
        try:
            older.append(read())
        except RuntimeError:
            older.append(None)
    return (*older, _BACKENDS.fp32_precision, *(each.fp32_precision for each in _NEWER))


def _set_precisions(precisions: tuple[Any, ...]) -> None:
    """The older first, which set some of the newer."""
    matmul, convolution, generic, *newer = precisions
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    if convolution is not None:
        cudnn.allow_tf32 = convolution
    for holder, precision in zip((_BACKENDS, *_NEWER), (generic, *newer), strict=True):
        if holder.fp32_precision != precision:
            holder.fp32_precision = precision


def _comparable(state: Any) -> Any:
    """Of the state of a generator of NumPy's, which holds arrays."""
    if isinstance(state, dict):
        return [(name, _comparable(value)) for name, value in state.items()]
    return state.tobytes() if isinstance(state, np.ndarray) else state


_PARTS = (
    _Part("changes the mode of gradients", torch.is_grad_enabled, torch.set_grad_enabled),
    *_autocast("cpu"),
    *_autocast("cuda"),
    _Part("changes the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Part("changes the default device", torch.get_default_device, _set_device),
    _Part(
        "changes the use of deterministic algorithms",
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
    ),
    _Part("changes the precision of float32", _precisions, _set_precisions),
    _Part("changes the number of threads", torch.get_num_threads, torch.set_num_threads),
    _Part(
        "changes the detection of anomalies",
        torch.is_anomaly_enabled,
        torch.autograd.set_detect_anomaly,
    ),
    _flag("changes the use of cuDNN", cudnn, "enabled"),
    _flag("changes cuDNN's benchmarking", cudnn, "benchmark"),
    _flag("changes cuDNN's determinism", cudnn, "deterministic"),
    _flag("changes the use of oneDNN", mkldnn, "enabled"),
    _Part("draws Python's random numbers", random.getstate, random.setstate),
    _Part(
        "draws NumPy's random numbers",
        partial(np.random.get_state, legacy=False),
        np.random.set_state,
        _comparable,
    ),
)


@contextlib.contextmanager
def state_kept() -> Iterator[list[str]]:
    """Afterwards each mode is as it was, and the random numbers of Python and NumPy go on from
    where they were.

    Yields:
        What was done to them, in words, which are in it once the context is left.
    """
    before = [part.read() for part in _PARTS]
    changed: list[str] = []
    try:
        yield changed
    finally:
        for part, value in zip(_PARTS, before, strict=True):
            if part.comparable(part.read()) != part.comparable(value):
                part.write(value)
                changed.append(part.name)


@contextlib.contextmanager
def generators_kept(seed: int | None = None) -> Iterator[None]:
    """Afterwards torch's random numbers go on from where they were.

    Those of GPUs, too, if the process uses any; else asking for them would begin to, and to seed
    them would be put off until it does.

    Args:
        seed: where they begin within.
    """
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(range(torch.cuda.device_count()) if used else ()):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            if used:
                torch.cuda.manual_seed_all(seed)
        yield
