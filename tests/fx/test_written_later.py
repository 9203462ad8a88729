"""What is written to after it was read, whichever way the graph came in, is read as it was."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import HEAVY, Capture, randomise, relative
from torch import nn
from torch.utils import _pytree as pytree

import bnfx

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()


class Net(nn.Module):
    def __init__(self, run: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.conv3, self.run = nn.Conv2d(4, 4, 1), run

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self, x)


def scaled_then_written(m: Any, x: torch.Tensor) -> Any:
    y = m.bn(m.conv(x))
    w = y * 2
    y.add_(1)
    return m.conv2(w), y


def normed_then_written(m: Any, x: torch.Tensor) -> Any:
    y = m.bn(m.conv(x))
    w = m.bn2(y)
    y.relu_()
    return m.conv2(w) + y


def normed_then_written_through_a_view(m: Any, x: torch.Tensor) -> Any:
    y = m.bn(m.conv(x))
    w = m.bn2(y)
    y.view(-1).add_(1)
    return m.conv2(w) + y


def branch_then_written(m: Any, x: torch.Tensor) -> Any:
    y = m.bn(m.conv(x))
    z = m.conv2(y)
    y.add_(1)
    return z + y


def folded_branch_then_written(m: Any, x: torch.Tensor) -> Any:
    y = m.bn(m.conv(x))
    z = m.conv2(m.bn2(y))
    y.add_(1)
    return z + y


def written_over_and_read(m: Any, x: torch.Tensor) -> Any:
    y = m.bn(m.conv(x))
    z = y.relu_()
    w = y * 1
    y.add_(1)
    return m.bn2(m.conv2(w)), z


def part_written(m: Any, x: torch.Tensor) -> Any:
    y = m.conv(x)
    y.mul_(-0.8)
    z = m.conv2(y)
    y[:, 0].mul_(0.7)
    return m.conv3(z), y


def compared_in_place(m: Any, x: torch.Tensor) -> Any:
    y = m.bn(m.conv(x)).relu()
    y.eq_(0)
    return y / 2


def compared_in_place_before_a_layer(m: Any, x: torch.Tensor) -> Any:
    y = m.bn(m.conv(x))
    y.gt_(0)
    return m.conv2(y)


def power_in_place(m: Any, x: torch.Tensor) -> Any:
    return m.conv2(m.bn(m.conv(x)).pow_(3))


def wider_operand_in_place(m: Any, x: torch.Tensor) -> Any:
    y = m.bn(m.conv(x)).float()
    y.add_(m.conv2.bias.view(-1, 1, 1))
    return y * 2


def statistics_updated(m: Any, x: torch.Tensor) -> Any:
    y = m.conv(x)
    torch.batch_norm_update_stats(y, m.bn.running_mean, m.bn.running_var, 0.3)
    return m.bn(y)


def statistics_updated_by_an_index(m: Any, x: torch.Tensor) -> Any:
    b, y = m.bn, m.conv(x)
    mean, var = b.running_mean, b.running_var
    z = torch._batch_norm_impl_index(y, b.weight, b.bias, mean, var, True, 0.3, 1e-5, False)[0]
    return b(y) + z


def statistics_updated_natively(m: Any, x: torch.Tensor) -> Any:
    b, y = m.bn, m.conv(x)
    mean, var = b.running_mean, b.running_var
    return b(y) + torch.native_batch_norm(y, b.weight, b.bias, mean, var, True, 0.3, 1e-5)[0]


def statistics_updated_as_a_schema_says(m: Any, x: torch.Tensor) -> Any:
    b, y = m.bn, m.conv(x)
    op, mean, var = torch._native_batch_norm_legit, b.running_mean, b.running_var
    return b(y) + op(y, b.weight, b.bias, mean, var, True, 0.3, 1e-5)[0]


def parameter_written(m: Any, x: torch.Tensor) -> Any:
    with torch.no_grad():
        m.conv.weight.mul_(1.1)
        m.bn.weight.add_(0.1)
    return F.relu(m.bn(m.conv(x)))


RUNS = [
    scaled_then_written,
    normed_then_written,
    normed_then_written_through_a_view,
    branch_then_written,
    folded_branch_then_written,
    written_over_and_read,
    part_written,
    compared_in_place,
    compared_in_place_before_a_layer,
    power_in_place,
    wider_operand_in_place,
    statistics_updated,
    statistics_updated_by_an_index,
    statistics_updated_natively,
    statistics_updated_as_a_schema_says,
    parameter_written,
]


Model = Callable[[torch.Tensor], Any]


def both(model: nn.Module, way: str) -> tuple[Model, Model]:
    """The folded model and the untouched one; a program, where torch's own differs from eager."""
    other = copy.deepcopy(model)
    if way == "compile":
        return torch.compile(other, backend="bnfx", options=Capture().options), model
    if way in ("graph", "auto"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", bnfx.FoldWarning)
            return bnfx.fold(other, X, keep=way), model
    program = torch.export.export(other, (X,))
    if way != "training":
        program = program.run_decompositions({} if way == "functional" else None)
    return bnfx.fold(program).module(), program.module()


def _ways() -> Iterator[Any]:
    """In the fast suite, each by two ways, and two of the slow ones in turn."""
    slow = ("graph", "auto", "decomposed", "functional")
    for at, run in enumerate(RUNS):
        for way in ("compile", "training", *slow):
            marks = HEAVY if way in slow and way not in (slow[at % 4], slow[(at + 1) % 4]) else ()
            yield pytest.param(run, way, id=f"{run.__name__}-{way}", marks=marks)


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("run", "way"), list(_ways()))
def test_it_answers_like_the_original(run: Callable[[Any, torch.Tensor], Any], way: str) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        folded, original = both(randomise(Net(run).double()).eval(), way)
        for _ in range(3):  # some have a state
            actual, expected = pytree.tree_leaves(folded(X)), pytree.tree_leaves(original(X))
            for ours, theirs in zip(actual, expected, strict=True):
                assert ours.dtype == theirs.dtype
                assert relative(ours, theirs) < 1e-10
