"""Small graphs: what each must become. Shared parts, and convolutions followed by BatchNorm.

The shapes are chosen to fool a fold that takes axes by their size: C_in == C_out, L == C, W == C.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from support import randomise
from torch import nn

from bnfx import Code


class Fn(nn.Module):
    """A model out of layers and a function."""

    def __init__(self, forward: Callable[..., torch.Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


@dataclass(frozen=True)
class Case:
    """A model, an input, and what must become of it.

    Args:
        folded, lowered, kept, merged: BatchNorms with that verdict.
        codes: of all refusals of BatchNorms, together.
    """

    name: str
    model: nn.Module
    shape: tuple[int, ...]
    folded: int = 1
    lowered: int = 0
    kept: int = 0
    codes: tuple[Code, ...] = ()
    left: int = 0  # batch_norm calls in the result
    ops: int | None = None  # ops in the result
    merged: int = 0
    border: bool = False  # whether one of the ops is a border
    rules: tuple[str, ...] = ()  # rules that must have been applied, besides others

    def fresh(self) -> Case:
        """The same with a model of its own, random and in float64: tests write to it."""
        model = randomise(copy.deepcopy(self.model)).eval().double()
        return replace(self, model=model)


def seq(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def _convolutions() -> list[Case]:
    cases = []
    norms = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
    convs = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    transposed = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
    variants = {
        "plain": ((4, 6, 3), {}),
        "no-bias": ((4, 6, 3), {"bias": False}),
        "grouped": ((4, 6, 3), {"groups": 2}),
        "depthwise": ((4, 4, 3), {"groups": 4, "bias": False}),
        "multiplier": ((4, 8, 3), {"groups": 4}),
        "square": ((6, 6, 3), {"groups": 3}),
        "strided": ((4, 6, 3), {"stride": 2, "padding": 1}),
        "dilated": ((4, 6, 2), {"dilation": 2, "padding": 2}),
    }
    for rank in (1, 2, 3):
        shape = (2, None, *(6, 7, 5)[:rank])
        for name, (sizes, options) in variants.items():
            for kind, classes in (("conv", convs), ("transposed", transposed)):
                model = seq(classes[rank](*sizes, **options), norms[rank](sizes[1]))
                dims = tuple(sizes[0] if size is None else size for size in shape)
                cases.append(Case(f"{kind}{rank}d-{name}", model, dims))
        same = seq(convs[rank](4, 6, 2, padding="same", dilation=3), norms[rank](6))
        cases.append(Case(f"conv{rank}d-same-even-kernel", same, (2, 4, *(8, 7, 9)[:rank])))
        for mode in ("reflect", "replicate", "circular"):
            model = seq(convs[rank](4, 6, 3, padding=1, padding_mode=mode), norms[rank](6))
            cases.append(Case(f"conv{rank}d-{mode}", model, (2, 4, *(6, 7, 5)[:rank])))
        out = seq(
            transposed[rank](6, 6, 3, stride=2, padding=1, output_padding=1, groups=3),
            norms[rank](6),
        )
        cases.append(Case(f"transposed{rank}d-output-padding", out, (2, 6, *(4, 5, 3)[:rank])))
    return cases


def _norms() -> list[Case]:
    conv = nn.Conv2d
    return [
        Case("affine-false", seq(conv(3, 5, 3), nn.BatchNorm2d(5, affine=False)), (2, 3, 6, 7)),
        Case("sync-batch-norm", seq(conv(3, 5, 3), nn.SyncBatchNorm(5)), (2, 3, 6, 7)),
        Case("large-eps", seq(conv(3, 5, 3), nn.BatchNorm2d(5, eps=0.7)), (2, 3, 6, 7)),
        Case("linear-2d", seq(nn.Linear(4, 6), nn.BatchNorm1d(6)), (3, 4)),
        Case("linear-no-bias", seq(nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6)), (6, 6)),
        Case(
            "conv-bn-bn", seq(conv(3, 5, 3), nn.BatchNorm2d(5), nn.BatchNorm2d(5)), (2, 3, 6, 7), 2
        ),
        Case(
            "relu-bn-bn",
            seq(nn.ReLU(), nn.BatchNorm2d(3), nn.BatchNorm2d(3)),
            (2, 3, 6, 7),
            folded=0,
            lowered=1,
            merged=1,
            codes=(Code.NO_LINEAR_BEFORE, Code.NONZERO_SHIFT),
        ),
        Case(
            "conv-relu-bn",
            seq(conv(3, 5, 3), nn.ReLU(), nn.BatchNorm2d(5)),
            (2, 3, 6, 7),
            folded=0,
            lowered=1,
            codes=(Code.NONZERO_SHIFT,),
        ),
    ]


def _readers() -> list[Case]:
    conv, norm = nn.Conv2d, nn.BatchNorm2d
    twice = Fn(lambda m, x: m.bn(m.conv(x)) + m.bn(m.conv(x * 2)), conv=conv(3, 5, 3), bn=norm(5))
    shared_conv = Fn(
        lambda m, x: m.a(m.conv(x)) - m.b(m.conv(x * 2)), conv=conv(3, 5, 3), a=norm(5), b=norm(5)
    )
    two_norms = Fn(
        lambda m, x: (lambda y: m.a(y) * m.b(y))(m.conv(x)),
        conv=conv(3, 5, 3),
        a=norm(5),
        b=norm(5),
    )
    raw_too = Fn(
        lambda m, x: (lambda y: torch.cat([m.bn(y), y], 1))(m.conv(x)),
        conv=conv(3, 5, 3),
        bn=norm(5),
    )
    shape_only = Fn(
        lambda m, x: (lambda y: m.bn(y) * y.shape[2] + y.size(0))(m.conv(x)),
        conv=conv(3, 5, 3),
        bn=norm(5),
    )
    tied = Fn(lambda m, x: m.a(m.one(x)) + m.b(m.two(x)), one=conv(3, 5, 3), two=conv(3, 5, 3))
    tied.two.weight = tied.one.weight
    tied.add_module("a", norm(5))
    tied.add_module("b", norm(5))
    in_place = Fn(
        lambda m, x: F.relu(m.bn(m.conv(x)), inplace=True).add_(1), conv=conv(3, 5, 3), bn=norm(5)
    )
    written_between = Fn(
        lambda m, x: (lambda y: (y.mul_(2), m.bn(y))[1])(m.conv(x)), conv=conv(3, 5, 3), bn=norm(5)
    )
    input_written = Fn(
        lambda m, x: (lambda x, y: (x.mul_(3), m.bn(y) + x.sum())[1])(x * 1, m.conv(x * 1)),
        conv=conv(3, 5, 3),
        bn=norm(5),
    )
    other, written = (Code.OTHER_READERS,), Code.MUTATED_IN_GRAPH
    return [
        Case("one-pair-called-twice", twice, (2, 3, 6, 7), folded=2),
        Case("shared-conv-own-bn", shared_conv, (2, 3, 6, 7), folded=2),
        Case("two-norms-on-one-conv", two_norms, (2, 3, 6, 7), 0, 2, codes=other),
        Case("conv-read-raw-too", raw_too, (2, 3, 6, 7), 0, 1, codes=other),
        Case("conv-shape-read-too", shape_only, (2, 3, 6, 7)),
        Case("tied-weights", tied, (2, 3, 6, 7), folded=2),
        Case("in-place-after", in_place, (2, 3, 6, 7)),
        Case("written-between", written_between, (2, 3, 6, 7), 0, 1, codes=(*other, written)),
        Case("conv-input-written-later", input_written, (2, 3, 6, 7)),
    ]


def _traps() -> list[Case]:
    lowered = {"folded": 0, "lowered": 1}
    axis = (Code.AXIS_MISMATCH,)
    keyword = Fn(
        lambda m, x: m.bn(
            F.conv2d(
                weight=m.conv.weight,
                input=x,
                groups=2,
                padding=(1, 2),
                stride=(2, 1),
                bias=m.conv.bias,
            )
        ),
        conv=nn.Conv2d(4, 6, 3, groups=2),
        bn=nn.BatchNorm2d(6),
    )
    functional = Fn(
        lambda m, x: F.batch_norm(
            eps=0.3,
            input=m.conv(x),
            bias=m.bn.bias,
            running_var=m.bn.running_var,
            running_mean=m.bn.running_mean,
        ),
        conv=nn.Conv2d(3, 5, 3),
        bn=nn.BatchNorm2d(5),
    )
    torch_form = Fn(
        lambda m, x: torch.batch_norm(
            m.conv(x),
            m.bn.weight,
            m.bn.bias,
            m.bn.running_mean,
            m.bn.running_var,
            False,
            0.1,
            0.3,
            True,
        ),
        conv=nn.Conv2d(3, 5, 3),
        bn=nn.BatchNorm2d(5),
    )
    untracked = seq(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, track_running_stats=False))
    native = Fn(
        lambda m, x: torch.native_batch_norm(
            m.conv(x), m.bn.weight, m.bn.bias, m.bn.running_mean, m.bn.running_var, False, 0.1, 0.3
        )[0],
        conv=nn.Conv2d(3, 5, 3),
        bn=nn.BatchNorm2d(5),
    )
    untold = (Code.NO_RUNNING_STATISTICS,)
    form = (Code.UNSUPPORTED_FORM,)
    linear, norm = nn.Linear(4, 6), nn.BatchNorm1d
    unbatched = seq(nn.Conv1d(4, 6, 3), norm(6))
    return [
        Case("linear-3d-square", seq(linear, norm(6)), (3, 6, 4), **lowered, codes=axis),
        Case("linear-3d", seq(nn.Linear(4, 6), norm(5)), (3, 5, 4), **lowered, codes=axis),
        Case("conv1d-unbatched", unbatched, (4, 8), **lowered, codes=axis),
        Case("keyword-arguments", keyword, (2, 4, 6, 7)),
        Case("functional-batch-norm", functional, (2, 3, 6, 7)),
        Case("torch-batch-norm", torch_form, (2, 3, 6, 7)),
        Case("no-running-statistics", untracked, (2, 3, 6, 7), 0, 0, 1, untold, left=1),
        Case("native-batch-norm", native, (2, 3, 6, 7), 0, 0, 1, form, left=1),
    ]


CASES = [*_convolutions(), *_norms(), *_readers(), *_traps()]
