"""Whether cuDNN's fused convolution is right and faster for one shape, by a timed trial."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

log = logging.getLogger("bnfx")

_ROUNDS = 15
_WARMUPS = 3
_MARGIN = 0.97  # of the time of the parts; above that, it may be noise
_known: dict[object, bool] = {}


def is_faster(fused: fx.Node, like: torch.Tensor) -> bool:
    """Whether the fused call takes less time than a bare convolution and one pointwise kernel.

    Both run on random numbers of the shapes and layouts at hand. A shape is tried once a process.

    Args:
        fused: ``bnfx.conv_relu`` or ``bnfx.conv_add_relu``.
        like: its answer must be like this, in layout too.
    """
    values = [arg.meta["val"] if isinstance(arg, fx.Node) else arg for arg in fused.args]
    sizes = [tuple(map(_described, values)), str(fused.target), torch.backends.cudnn.allow_tf32]
    key = (*sizes, torch.cuda.get_device_name(like.device))
    if key not in _known:
        with torch.utils._python_dispatch._disable_current_modes(), torch.no_grad():
            try:
                _known[key] = _tried(fused.target, [_example(value) for value in values], like)
            except Exception as error:
                log.info("bnfx: cuDNN's fused convolution is not used: %r", error)
                _known[key] = False
    return _known[key]


def _described(value: Any) -> object:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _example(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    shape, stride = tuple(value.shape), value.stride()
    made = torch.empty_strided(shape, stride, dtype=value.dtype, device=value.device)
    return made.uniform_(-0.5, 0.5)


def _tried(op: Any, args: list[Any], like: torch.Tensor) -> bool:
    at = 3 if op is torch.ops.bnfx.conv_add_relu.default else 2
    z, bias, geometry = (args[2] if at == 3 else None), args[at], args[at + 1 :]
    stride, padding, dilation, groups = geometry
    none = [0] * len(stride)

    def parts() -> torch.Tensor:
        # What Inductor makes of it: bias, sum and ReLU are one kernel, which relu_ stands for here,
        # and it reads z as well.
        out: torch.Tensor = torch.ops.aten.convolution.default(
            args[0], args[1], None, stride, padding, dilation, False, none, groups
        )
        return out.relu_() if z is None else out.add_(z)

    def whole() -> torch.Tensor:
        out: torch.Tensor = op(*args)
        return out

    expected = torch.ops.aten.convolution.default(
        args[0], args[1], bias, stride, padding, dilation, False, none, groups
    )
    expected = (expected if z is None else expected + z).relu()
    actual = whole()
    bound = {torch.float32: 1e-2, torch.float16: 1e-2, torch.bfloat16: 5e-2}[actual.dtype]
    error = (actual.double() - expected.double()).abs().max() / expected.double().abs().max()
    if actual.stride() != like.stride() or not error <= bound:
        return False
    fused_ms, parts_ms = _milliseconds(whole, parts)
    log.debug("bnfx: %s: cuDNN fused %.4f ms, in parts %.4f ms", op, fused_ms, parts_ms)
    return fused_ms < _MARGIN * parts_ms


def _milliseconds(*ways: Callable[[], torch.Tensor]) -> list[float]:
    """Median time of each on the device, in turn."""
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(_WARMUPS + _ROUNDS):
        for way, own in zip(ways, times, strict=True):
            start, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
            start.record()
            way()
            end.record()
            end.synchronize()
            if turn >= _WARMUPS:
                own.append(start.elapsed_time(end))
    return [statistics.median(own) for own in times]
