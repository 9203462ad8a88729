"""What an inner compiler is: it takes a graph, and weights as inputs, as constants or packed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

if TYPE_CHECKING:
    from bnfx.inner.packed.packing import Packed

Compiled = Callable[..., Any]
# In the meta of a graph that is frozen: a dict of what a compiler may keep for other weights of it.
KEPT = "bnfx_kept"
GraphPass = Callable[[fx.Graph], Any]  # rewrites a graph in place


# Engines for inference, each a room of that name here, and the packages that it needs.
ENGINES: Mapping[str, tuple[str, ...]] = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnx"),
}
# What any inner compiler that is not part of torch needs.
PACKAGES: Mapping[str, tuple[str, ...]] = {**ENGINES, "tvm": ("tvm",)}


class EngineRefusal(Exception):  # noqa: N818 (it is no error)
    """An engine does not take a graph; its text says why.

    Args:
        quiet: whether that is no more than the report has to say.
    """

    def __init__(self, why: str, quiet: bool = False) -> None:
        super().__init__(why)
        self.quiet = quiet


@dataclass(frozen=True)
class Inner:
    """A compiler of fx graphs.

    Args:
        compile: ``(gm, example_inputs) -> callable``.
        freeze: the same for a graph whose weights are constants, or ``None`` where the compiler
            gains nothing from them.
        pack: see :func:`bnfx.inner.packed.packing.compile_packed`; ``None`` where the compiler
            cannot take packed weights as inputs.
        unpackable: why not.
        is_inductor: whether it is Inductor.
        with_pass: the same compiler, with a pass over the graphs that AOTAutograd makes for
            backward; ``None`` where that is not known how.
        fallback: for an engine, which takes graphs for inference with constants alone, and not all
            of them: the compiler of the others. ``freeze`` raises :class:`EngineRefusal` for those.
            Until changed weights have settled, PyTorch runs the folded graph.
        notes: for the report, there once a graph is compiled.
        weight_layout: lays a folded weight out for it; ``None`` leaves it as it is.
    """

    compile: Callable[[fx.GraphModule, Sequence[Any]], Compiled]
    freeze: Callable[[fx.GraphModule, Sequence[Any]], Compiled] | None = None
    pack: Callable[[fx.GraphModule, Mapping[str, torch.Tensor], Sequence[Any]], Packed] | None = (
        None
    )
    unpackable: str = "only Inductor takes packed weights"
    is_inductor: bool = False
    with_pass: Callable[[GraphPass], Inner] | None = None
    weight_layout: Callable[[torch.Tensor], torch.Tensor] | None = None
    fallback: Inner | None = None
    notes: Sequence[str] = ()


def packages_missing(name: str) -> list[str]:
    """Packages that the inner compiler ``name`` needs and that are not installed."""
    return [each for each in PACKAGES.get(name, ()) if importlib.util.find_spec(each) is None]


def has_fixed_layout(value: torch.Tensor) -> bool:
    """Whether its sizes and strides are numbers, none of them open."""
    return all(isinstance(size, int) for size in (*value.shape, *value.stride()))


def channels_last(weight: torch.Tensor) -> torch.Tensor:
    """The same numbers with channels last: the weight of a 2-D or 3-D convolution; others as is."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if weight.dim() not in formats:
        return weight
    return weight.contiguous(memory_format=formats[weight.dim()])
