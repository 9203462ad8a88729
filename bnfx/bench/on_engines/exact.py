"""How far answers in float32 are from exact ones, and how far off rounding may put them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bnfx.folding.verify import relative_error

# Relative errors of an answer in float32: what an engine may have whatever PyTorch has, and how
# many times PyTorch's own.
ROUNDING, NOISE = 2e-5, 8.0


def allowed_error(eagers: float) -> float:
    """What rounding explains, where PyTorch's own answer has the relative error ``eagers``."""
    return max(ROUNDING, NOISE * eagers)


def exact_answer(model: nn.Module, x: Any) -> tuple[torch.Tensor, ...]:
    """The tensors of the model's answer in float64, stored in float32."""
    wide = copy.deepcopy(model).double()
    widened = pytree.tree_map(lambda t: t.double() if t.is_floating_point() else t, x)
    answer = (each.cpu() for each in pytree.tree_leaves(wide(widened)))
    return tuple(each.float() if each.is_floating_point() else each for each in answer)


def error_of(answer: Any, expected: tuple[torch.Tensor, ...]) -> float:
    """The relative error of an answer."""
    leaves = pytree.tree_leaves(answer)
    return relative_error(tuple(each.detach().cpu() for each in leaves), expected)
