"""What a fold leaves is known as such when its result is looked at; an op has one name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import randomise
from torch import nn

import bnfx
from bnfx.archives.pt2 import load_program
from bnfx.report.wording import sized

SIZE = (2, 3, 12, 12)


class Scaled(nn.Module):
    """One constant division, one BatchNorm across padding, one that is lowered."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.BatchNorm2d(8)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image / 255.0
        x = torch.relu(self.conv(self.first(x)))
        return self.last(x) * x.sigmoid()


def scaled() -> nn.Module:
    return randomise(Scaled()).eval()


def kinds(report: bnfx.Report) -> list[tuple[str, str]]:
    return [(verdict.site.name, verdict.site.kind) for verdict in report.verdicts]


LEFT = [("conv", "border"), ("last", "multiply_add")]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_folded_programs(tmp_path: Path, decomposed: bool, again: bool) -> None:
    program = torch.export.export(scaled(), (torch.randn(SIZE),))
    folded = bnfx.fold(program.run_decompositions() if decomposed else program)
    folded = bnfx.fold(folded) if again else folded
    torch.export.save(folded, tmp_path / "folded.pt2")
    with (tmp_path / "folded.pt2").open("rb") as file:
        ours = load_program(file)
    for loaded in (folded, torch.export.load(tmp_path / "folded.pt2"), ours):
        report = bnfx.explain(loaded)
        assert kinds(report) == LEFT
        text = report.to_text(width=100)
        assert text.splitlines() == [
            "no BatchNorm is left in the graph",
            "An earlier fold left 1 border addition and 1 multiply-add: nothing to do.",
        ]


def test_an_affine_op_of_the_user_is_none_of_ours() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    program = torch.export.export(model.eval(), (torch.randn(SIZE),))
    assert kinds(bnfx.explain(bnfx.fold(program))) == []

    class Shifted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x * 2.0 + 1.0).tanh()

    program = torch.export.export(Shifted().eval(), (torch.randn(SIZE),))
    assert [kind for _, kind in kinds(bnfx.explain(program))] == ["affine", "affine"]


def test_one_name_in_each_front_end() -> None:
    model, x = scaled(), torch.randn(SIZE)
    with_inputs, without = bnfx.explain(model, x), bnfx.explain(model)
    exported = bnfx.explain(torch.export.export(model, (x,)))
    expected = [("div", "affine"), ("first", "batch_norm"), ("last", "batch_norm")]
    assert kinds(with_inputs) == kinds(exported) == expected
    assert "at div" in without.to_text(width=200)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x * 2)
        y *= 3
        return torch.mul(4.0, y.relu()).sin()


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Twice()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


def test_several_of_one_kind_are_counted() -> None:
    model, x = Holder().eval(), torch.randn(SIZE)
    names = ["block:mul", "block:mul_1", "block:mul_2"]
    exported = torch.export.export(model, (x,))
    assert [name for name, _ in kinds(bnfx.explain(exported))] == names
    assert [name for name, _ in kinds(bnfx.explain(model, x))] == names


@pytest.mark.parametrize("ask", [bnfx.fold, bnfx.explain])
def test_a_misfit_is_one_sentence_and_no_traceback_of_torch(ask: object) -> None:
    with pytest.raises(bnfx.CaptureError) as caught:
        ask(scaled(), torch.randn(2, 4, 12, 12))  # type: ignore[operator]
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    message = str(caught.value)
    assert "do not fit the model" in message
    assert f"{__file__}:" in message
    assert len(message.splitlines()) == 1


def held(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.state_dict().values() if t.dim())


def test_constants_are_counted() -> None:
    """A border of 8 x 40 x 40 is stored; against that, a BatchNorm of 3 channels is gone."""
    model, x = scaled(), torch.randn(2, 3, 40, 40)
    program = torch.export.export(model, (x,))
    folded = bnfx.fold(program)
    report = bnfx.explain(program)
    stored = sum(t.numel() * t.element_size() for t in folded.state_dict.values())
    assert report.weight_bytes == (held(model), stored)
    assert stored - held(model) > 8 * 40 * 40 * 4 - 500
    text = report.to_text(width=200)
    assert f"The constants grow by {sized(stored - held(model))}, from {sized(held(model))}" in text
    assert bnfx.explain(model, x).weight_bytes == report.weight_bytes
    (graph,) = report.to_dict()["graphs"]
    assert (graph["weights"]["bytes_before"], graph["weights"]["bytes_after"]) == (
        held(model),
        stored,
    )


def test_what_shrinks_is_no_news() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))).eval()
    for report in (bnfx.explain(model), bnfx.explain(model, torch.randn(2, 3, 8, 8))):
        before, after = report.weight_bytes
        assert (before, after) == (held(model), held(model) - 4 * 8 * 4)
        assert "constants" not in report.to_text()


def outcomes(report: bnfx.Report) -> list[tuple[str, str, list[str]]]:
    return [
        (v.site.name, v.outcome.value, [refusal.code.value for refusal in v.refusals])
        for v in report.verdicts
    ]


@pytest.mark.slow
def test_what_was_explained_before_changes_nothing() -> None:
    """Dynamo opens a size that varies, and a fold across padding needs it fixed."""
    model = scaled()
    alone = outcomes(bnfx.explain(model, torch.randn(2, 3, 40, 40)))
    for size in ((2, 3, 24, 24), (3, 3, 32, 24), (1, 3, 40, 40)):
        bnfx.explain(model, torch.randn(size))
    assert outcomes(bnfx.explain(model, torch.randn(2, 3, 40, 40))) == alone
    assert "dynamic-shape" not in str(alone)
