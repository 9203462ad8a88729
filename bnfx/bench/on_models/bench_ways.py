"""The ways to run a user's model that are compared, and which of them are installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bnfx.bench.on_engines.contenders import CONTENDERS, TWIN
from bnfx.errors import SourceError
from bnfx.inner.base import packages_missing
from bnfx.options import nearest

Run = Callable[[Any], Any]

# What has no kernels on a GPU, or is built for the CPU here.
_CPU_ONLY = ("freezing", "onnxruntime", "openvino", "tvm")
_OF_ONE_TENSOR = ("onnxruntime", "openvino")


class Packed(nn.Module):
    """A model as engines take it: one argument (a tensor, or a tuple of them), outputs a tuple."""

    def __init__(self, model: nn.Module, is_several: bool) -> None:
        super().__init__()
        self.model = model
        self.is_several = is_several

    def forward(self, x: Any) -> tuple[torch.Tensor, ...]:
        answer = self.model(*x) if self.is_several else self.model(x)
        return tuple(each for each in pytree.tree_leaves(answer) if isinstance(each, torch.Tensor))


def _fx_fuse(model: nn.Module, x: Any) -> Run:
    """``torch.fx``'s own fold, behind Inductor like the others."""
    from torch.fx.experimental.optimization import fuse

    assert isinstance(model, Packed)
    return torch.compile(Packed(fuse(model.model), model.is_several), dynamic=False)


def _tvm(model: nn.Module, x: Any) -> Run:
    return torch.compile(model, backend="bnfx", dynamic=False, options={"inner": "tvm"})


WAYS: Mapping[str, Callable[[nn.Module, Any], Run]] = {
    **CONTENDERS,
    "fx-fuse": _fx_fuse,
    "bnfx-tvm": _tvm,
}
_DEFAULT = ("eager", "fx-fuse", "inductor", "freezing", "onnxruntime", "openvino", "bnfx")
LIMIT = f"{TWIN}bnfx"  # the model without BatchNorms, by the same way: what a fold can reach


def choose(asked: Sequence[str], device: str, inputs: int) -> tuple[list[str], list[str]]:
    """The ways to compare, and a sentence on each that is left out.

    Args:
        asked: names; all that make sense where there are none. TVM, which is slow until it is
            tuned, and bnfx on other engines come only when they are asked for.
        device: ``"cpu"`` or ``"cuda"``.
        inputs: how many the model takes.

    Raises:
        SourceError: for a name that is none.
    """
    known = [*WAYS, LIMIT]
    for name in asked:
        if name not in known:
            raise SourceError(f"--engine {name} is not known{nearest(name, known)}")
    left: dict[str, str] = {}
    for name in asked or (*_DEFAULT, LIMIT):
        part = name.removeprefix(TWIN).removeprefix("bnfx-")
        missing = packages_missing(part)
        if device != "cpu" and part in _CPU_ONLY:
            left[name] = f"{name} is left out: it is for the CPU"
        elif missing:
            are = "is" if len(missing) == 1 else "are"
            left[name] = f"{name} is left out: {' and '.join(missing)} {are} not installed"
        elif inputs > 1 and name in _OF_ONE_TENSOR:
            left[name] = f"{name} is left out: it is compared on models of one input"
        else:
            left[name] = ""
    return [name for name, why in left.items() if not why], [why for why in left.values() if why]
