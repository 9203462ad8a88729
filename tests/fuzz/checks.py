"""What a network must answer, however it is run. Stands in each program that shows a failure, so
it imports nothing but torch and bnfx.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import bnfx

EXACT = 1e-10  # of the largest element
TELLING = 1e-6  # of what another input changes: an answer that hardly varies proves little
NOISE = 1e-12  # where all cancels


@dataclass(frozen=True)
class Setting:
    """How a network is run.

    Args:
        way: one of `WAYS`.
        dtype: of its numbers and input.
        layout: of its input: ``"contiguous"``, ``"channels last"``, ``"strided"``.
        batches: of one call after another.
        mode: ``"eval"``, ``"train"``, or ``"mixed"``: each second layer trains.
        gradients: whether they are compared, too.
        autocast: whether the calls stand in a region of autocast to bfloat16.
    """

    way: str = "compile"
    dtype: torch.dtype = torch.float64
    layout: str = "contiguous"
    batches: tuple[int, ...] = (2,)
    mode: str = "eval"
    gradients: bool = False
    autocast: bool = False

    @property
    def eps(self) -> float:
        """How coarse the numbers are that it computes with."""
        return torch.finfo(torch.bfloat16 if self.autocast else self.dtype).eps


@dataclass
class Seen:
    """All that a caller can see of a call."""

    outputs: list[torch.Tensor]
    others: list[torch.Tensor] = field(default_factory=list)
    strides: list[tuple[int, ...]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [*self.outputs, *self.others]


def _compiled(network: nn.Module, x: torch.Tensor, setting: Setting) -> Any:
    dynamic = True if len(set(setting.batches)) > 1 else None
    options = {"inner": lambda graph, inputs: graph.forward}
    return torch.compile(network, backend="bnfx", dynamic=dynamic, options=options)


def _traced(network: nn.Module, x: torch.Tensor, setting: Setting) -> Any:
    return torch.compile(network, backend="bnfx", options={"inner": "aot_eager"})


def _direct(network: nn.Module, x: torch.Tensor, setting: Setting) -> Any:
    options = {"inner": lambda graph, inputs: graph.forward}
    return bnfx.compile(network, options=options)


def _graph(network: nn.Module, x: torch.Tensor, setting: Setting) -> Any:
    return bnfx.fold(network, x, keep="graph")


def _class(network: nn.Module, x: torch.Tensor, setting: Setting) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bnfx.FoldWarning)  # what a graph would fold
        return bnfx.fold(network, x, keep="module", assume="example")


def _exported(network: nn.Module, x: torch.Tensor, setting: Setting) -> Any:
    batch: dict[int, Any] = {0: torch.export.Dim.AUTO} if len(set(setting.batches)) > 1 else {}
    program = torch.export.export(network, (x,), dynamic_shapes=(batch,))
    return bnfx.fold(program).module()


WAYS: dict[str, Callable[[nn.Module, torch.Tensor, Setting], Any]] = {
    "compile": _compiled,
    "compile, traced": _traced,
    "bnfx.compile": _direct,
    "fold to a graph": _graph,
    "fold to the class": _class,
    "export": _exported,
}
# Those that hold the network itself, so its statistics and gradients are theirs.
LIVE = ("compile", "compile, traced", "bnfx.compile")


def check(network: nn.Module, shape: tuple[int, ...], setting: Setting, seed: int) -> bool:
    """Whether anything could be compared: a network that PyTorch refuses, or whose answer is the
    same for two inputs, proves nothing.

    Raises:
        AssertionError: of the first wrong answer.
    """
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(seed)
    exact = _in_mode(copy.deepcopy(network).double(), setting)
    plain = _in_mode(copy.deepcopy(network).to(setting.dtype), setting)
    tried = copy.deepcopy(plain)
    run = None
    for batch in setting.batches:
        full = (batch, *shape[1:])
        x = _laid_out(torch.randn(full, generator=generator).to(setting.dtype), setting)
        another = torch.randn(full, generator=generator, dtype=torch.float64)
        try:
            twin = copy.deepcopy(exact)  # calls write statistics
            elsewhere = _seen(twin, twin, another, setting)
            expected = _seen(exact, exact, x.double(), setting)
            eager = _seen(plain, plain, x, setting)
        except RuntimeError:
            return False
        pairs = zip(expected.outputs, elsewhere.outputs, strict=True)
        changes = [float((one - other).abs().max()) for one, other in pairs]
        if max(changes) <= NOISE or not all(t.isfinite().all() for t in expected.tensors):
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("error", bnfx.RewriteWarning)
            if run is None:
                run = WAYS[setting.way](tried, x, setting)
            actual = _seen(run, tried, x, setting)
        _compare(actual, expected, eager, changes, setting)
    return True


def _in_mode(network: nn.Module, setting: Setting) -> nn.Module:
    for index, module in enumerate(network.modules()):
        module.training = setting.mode == "train" or (setting.mode == "mixed" and index % 2 == 1)
    return network


def _laid_out(x: torch.Tensor, setting: Setting) -> torch.Tensor:
    if setting.layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if setting.layout == "strided":
        wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])
        wide[..., ::2] = x
        return wide[..., ::2]
    return x


def _copied(x: torch.Tensor) -> torch.Tensor:
    """With the same strides, gaps among them."""
    other = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    return other.copy_(x)


def _seen(run: Any, owner: nn.Module, given: torch.Tensor, setting: Setting) -> Seen:
    """A call of what was made of ``owner``; then each output is written to, which shows in what
    shares memory with it.
    """
    x = _copied(given)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=setting.autocast)
    with torch.set_grad_enabled(setting.gradients), autocast:
        outputs = list(run(x))
    seen = Seen([output.detach().clone() for output in outputs], [x.clone()])
    seen.strides = list(map(_strides, outputs))
    if setting.way not in LIVE:
        return seen
    if setting.gradients:
        loss = sum((output * output).sum() for output in outputs)
        wanted = [p for p in owner.parameters() if p.requires_grad]
        if isinstance(loss, torch.Tensor) and loss.requires_grad and wanted:
            grads = torch.autograd.grad(loss, wanted, allow_unused=True)
            seen.others += [g if g is not None else torch.zeros(()) for g in grads]
    seen.others += [buffer.clone() for buffer in owner.buffers()]
    for index, output in enumerate(outputs):
        try:
            output.detach().add_(index + 1)
        except RuntimeError:  # elements that share memory with one another
            seen.refused.append(index)
    seen.others += [x.clone(), *(output.detach().clone() for output in outputs)]
    return seen


def _strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """Of axes that have more than one element: others lead nowhere, and PyTorch's own kernels and
    compilers give them one way or another (a convolution of one pixel with channels last).
    """
    return tuple(s for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1)


def _compare(
    actual: Seen, expected: Seen, eager: Seen, changes: list[float], setting: Setting
) -> None:
    assert len(actual.outputs) == len(expected.outputs)
    if setting.way in LIVE:
        assert actual.strides == eager.strides, "strides"
    assert actual.refused == eager.refused, "elements that share memory"
    largest = max((float(t.abs().max()) for t in expected.tensors if t.numel()), default=1.0)
    assert len(actual.others) == len(expected.others)
    rows = zip(actual.tensors, expected.tensors, eager.tensors, strict=True)
    for index, (ours, exact, theirs) in enumerate(rows):
        assert ours.shape == exact.shape
        assert ours.dtype == theirs.dtype
        error = float((ours.double() - exact).abs().max()) if ours.numel() else 0.0
        if setting.dtype == torch.float64:
            scale = max(float(exact.abs().max()), 1.0)
            telling = changes[index] if index < len(changes) else scale
            bound = min(EXACT * scale, max(TELLING * telling, NOISE * scale))
        else:
            same = float((theirs.double() - exact).abs().max()) if ours.numel() else 0.0
            bound = 4 * same + 32 * setting.eps * largest
        assert error <= bound, f"{index}: off by {error}, allowed {bound}"
