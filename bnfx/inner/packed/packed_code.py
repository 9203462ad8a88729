"""Inductor's code whose packed weights are inputs, as AOTAutograd's cache keeps it.

Importing this imports Inductor. A process that finds an entry of the cache imports it, too: the ops
of :mod:`bnfx.inner.packed.packed_ops` are there by then.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._dynamo.guards import assert_size_stride
from torch._inductor.codecache import FxGraphCache
from torch._inductor.output_code import OutputCode

from bnfx.inner.packed import packed_ops as packed_ops
from bnfx.inner.packed.pack_program import PackProgram

_here = threading.local()


@contextlib.contextmanager
def serving(constants: Sequence[torch.Tensor]) -> Iterator[None]:
    """What is called within, in this thread, is served with these constants."""
    before = getattr(_here, "constants", None)
    _here.constants = constants
    try:
        yield
    finally:
        _here.constants = before


@contextlib.contextmanager
def noting() -> Iterator[list[PackedCode]]:
    """Gives what is compiled, or found compiled, within, in this thread."""
    before = getattr(_here, "noted", None)
    _here.noted = noted = list[PackedCode]()
    try:
        yield noted
    finally:
        _here.noted = before


@dataclass
class PackedCode(OutputCode):
    """A compiled body, below AOTAutograd.

    Args:
        code: Inductor's: it takes inputs, and constants behind them.
        program: makes these constants from weights.
        taken: which of AOTAutograd's inputs it takes; the others are the weights, as they came.
        layouts: the shapes and strides of inputs that have the same in each call. ``code`` looks
            at none, as it could not look at packed constants.
    """

    code: Any
    program: PackProgram
    taken: tuple[int, ...]
    layouts: tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        self._boxed_call = True  # wrappers copy it, as they would not copy one of the class

    def __call__(self, inputs: Any) -> Any:
        for at, shape, stride in self.layouts:
            assert_size_stride(inputs[at], shape, stride)
        given = [inputs[at] for at in self.taken]
        given.extend(_here.constants)
        inputs.clear()  # as who is called this way must: the caller's references are done with
        return self.code(given)

    def note(self) -> None:
        """Tell :func:`noting`."""
        _here.noted.append(self)

    def prepare_for_serialization(self) -> None:
        """As Inductor's own code does: what cannot be pickled is taken out, of a copy."""
        self.code = copy(self.code)
        self.code.prepare_for_serialization()

    def post_compile(
        self, example_inputs: Sequence[Any], constants: Any, graph_kwargs: Any
    ) -> None:
        """Load the code, as it came out of the cache."""
        code, _ = FxGraphCache.cache_hit_post_compile(self.code, {}, constants)
        assert code is not None, "Inductor's cache lost the code"  # torch compiles it, then
        code.post_compile([example_inputs[at] for at in self.taken], constants, graph_kwargs)
        self.code = code
        self.note()

    def set_triton_bundle(self, triton_bundle: Any) -> None:
        """It has none: it runs on a CPU."""
