"""A rank whose batch is empty still takes part in every collective, forward and back."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from bnfx.inner.base import Inner
from bnfx.passes.fx.training.synchronise import Swapped


def for_batch(inner: Inner, swapped: Swapped, example_inputs: Sequence[Any]) -> Inner:
    """The compiler for a graph with these inputs: Inductor cannot take an empty batch.

    It asserts on the backward of a convolution without samples, while the peers wait. ATen's own
    kernels have no such trouble, and there is nothing to compute, so nothing to be fast at.
    """
    empty = any(isinstance(x, torch.Tensor) and x.numel() == 0 for x in example_inputs)
    if not (empty and swapped.calls and inner.is_inductor):
        return inner
    backend = torch._dynamo.lookup_backend("aot_eager")
    return Inner(functools.partial(backend))
