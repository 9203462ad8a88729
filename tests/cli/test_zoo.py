"""``bnfx bench --zoo``: a small sample is right, and the runner sees it when one is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import HEAVY
from torch import fx, nn
from torchvision.ops.misc import FrozenBatchNorm2d
from typer.testing import CliRunner

from bnfx import cli
from bnfx.bench.zoo import run as zoo
from bnfx.bench.zoo.assess import measure
from bnfx.bench.zoo.catalogue import ZooModel, entries
from bnfx.bench.zoo.page import print_markdown
from bnfx.bench.zoo.random_norms import randomise
from bnfx.bench.zoo.row import Counts, Outcomes, ZooRow
from bnfx.bench.zoo.show import print_json, print_table, summary
from bnfx.bench.zoo.timm_models import BATCH_NORM, TIMM

SHAPE = (2, 3, 8, 8)
# model: BatchNorms that fold
SAMPLE = {
    "torchvision/resnet18": 20,
    "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn.backbone": 0,
    "torchvision/r3d_18": 20,
    "timm/efficientnet_lite0": 49,
    "timm/starnet_s050": 18,
    "smp/Unet": 30,
}
SLOW = {"torchvision/r3d_18", "timm/efficientnet_lite0"}
RIGHT = ZooRow(
    model="tiny",
    shape=SHAPE,
    graphs=1,
    batch_norms=Outcomes(folded=2, lowered=1),
    affines=Outcomes(merged=1, kept=2),
    before=Counts(ops=9, linears=2, batch_norms=3),
    after=Counts(ops=7, linears=2),
    error=2e-15,
    rewrites={"fold-affine-into-linear": 2},
    refusals={"batch_norm": {"no-linear-before": 1}, "affine": {}},
    reasons={"no-linear-before": "the way back ends at x|y"},
    seconds=1.25,
)


class Tiny(nn.Module):
    """One BatchNorm to fold, one to leave as a multiply-add."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.folds = nn.BatchNorm2d(8)
        self.lowers = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lowers(self.folds(self.conv(x)).sin()).cos()


def tiny_entry(load: Callable[[], nn.Module] = Tiny) -> ZooModel:
    return ZooModel("tiny", load, SHAPE)


def off_by(factor: float) -> Callable[..., Any]:
    """An inner compiler whose answers are wrong by a factor."""

    def compile_(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        return lambda *args: tuple(factor * output for output in graph.forward(*args))

    return compile_


def broken(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    raise NotImplementedError("no such op")


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=HEAVY if name in SLOW else ()) for name in SAMPLE]
)
def test_sample_of_the_zoo(name: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    assert zoo.run(zoo.select(entries(), [name])[:1], rows=rows) == 0
    row = ZooRow.from_dict(json.loads(rows.read_text()))
    assert row.model == name
    assert row.problems == ()
    assert row.batch_norms.folded == SAMPLE[name]
    assert row.after.ops < row.before.ops
    assert 0 < row.error < 1e-12


def test_row_says_what_became_of_everything() -> None:
    row = measure("tiny", Tiny().double().eval(), torch.randn(SHAPE, dtype=torch.float64))
    assert row.problems == ()
    assert (row.shape, row.dtype, row.graphs) == (SHAPE, "float64", 1)
    assert row.batch_norms == Outcomes(folded=1, lowered=1)
    assert row.affines == Outcomes()
    assert row.before == Counts(ops=5, linears=1, batch_norms=2)
    assert row.after == Counts(ops=5, linears=1)  # a multiply and an add
    assert row.rewrites["fold-affine-into-linear"] == 1
    assert row.refusals["batch_norm"].keys() == row.reasons.keys() != set()


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("inner", "problem"),
    [
        (off_by(1 + 1e-9), "the float64 error 1.0e-09 is above 1e-10"),
        (off_by(float("nan")), "the float64 error inf is above 1e-10"),
        (broken, "NotImplementedError at test_zoo.py"),
    ],
)
def test_a_wrong_answer_is_status_1(
    inner: Callable[..., Any], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert zoo.run([tiny_entry(), replace(tiny_entry(), name="next")], inner=inner) == 1
    err = (printed := capsys.readouterr()).err
    assert f"bnfx bench: tiny: {problem}" in err
    assert f"bnfx bench: next: {problem}" in err  # the run went on
    assert "WRONG" in printed.out


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda model: model.conv.weight.detach().mul_(1e-9), "hardly depends on the picture"),
        (lambda model: model.conv.weight.detach().fill_(torch.inf), "is not finite"),
    ],
)
def test_an_answer_that_proves_nothing_is_a_problem(
    spoil: Callable[[Tiny], object], problem: str
) -> None:
    model = Tiny().double().eval()
    spoil(model)
    row = measure("tiny", model, torch.randn(SHAPE, dtype=torch.float64))
    assert any(problem in found for found in row.problems)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(16), FrozenBatchNorm2d(16)])
def test_batch_norms_are_random_and_signed(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), norm).eval()
    x = 5 + 3 * torch.randn(4, 3, 16, 16)
    assert randomise(model, x) == 1
    assert (norm.weight < 0).any()
    assert (norm.weight > 0).any()
    assert norm.bias.std() > 0.1
    seen = model[0](x).detach()
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=float(seen.std()))
    square = seen.square().mean()
    assert 0.5 * square <= norm.running_var.min() < norm.running_var.max() <= 2 * square
    assert not norm._forward_pre_hooks


def test_a_layer_built_with_zeros_is_woken() -> None:
    head = nn.Linear(8, 5)
    nn.init.zeros_(head.weight)
    other = nn.Linear(3, 8)
    kept = other.weight.detach().clone()
    assert randomise(nn.Sequential(other, head), torch.randn(2, 3)) == 0
    assert 0.1 < head.weight.std() < 1
    assert torch.equal(other.weight, kept)


def test_models_measured_before_are_not_measured_again(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(RIGHT.to_dict()) + "\n")
    assert zoo.run([tiny_entry(load=NotImplemented)], rows=rows) == 0
    assert ZooRow.from_dict(json.loads(rows.read_text())) == RIGHT


def test_a_model_left_out_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo.run([replace(tiny_entry(), name="absent", left_out="not here"), tiny_entry()]) == 0
    out = capsys.readouterr().out
    assert "left out: absent: not here" in out
    assert "1 models, 0 with a problem, 1 left out" in out


def test_names_are_unique_and_all_libraries_there() -> None:
    names = [entry.name for entry in entries()]
    assert len(set(names)) == len(names)
    assert {name.partition("/")[0] for name in names} == {"torchvision", "timm", "smp"}
    assert all(entry.left_out == "" for entry in entries())
    assert len(BATCH_NORM) == 59
    assert len(TIMM) == sum("timm/" in name for name in names)


def test_forms(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [RIGHT, replace(RIGHT, model="bad", error=float("inf"), problems=("it is bad",))]
    print_table(rows)
    table = capsys.readouterr().out
    cells = ["3", "2", "0", "1", "0", "3", "2", "2", "2", "9", "7", "2e-15", "1.2", "right"]
    assert next(line for line in table.splitlines() if "tiny" in line).split() == ["tiny", *cells]
    print_json(rows)
    first, second = json.loads(capsys.readouterr().out)["rows"]
    assert first["batch_norms"]["folded"] == 2
    assert second["error"] is None
    print_markdown(rows)
    page = capsys.readouterr().out
    assert "| tiny | 2x3x8x8 | 3 | 2 | 0 | 1 | 0 | 3 | 2 | 2 | 2 | 9 | 7 | 2e-15 |" in page
    assert "| `no-linear-before` | 2 | 2 | the way back ends at x\\|y (tiny) |" in page
    assert "- bad: it is bad" in page


def test_the_page_has_every_model() -> None:
    page = (Path(__file__).parents[2] / "docs/zoo.md").read_text()
    assert [entry.name for entry in entries() if f"| {entry.name} |" not in page] == []
    assert "## Problems" not in page


def test_summary() -> None:
    assert summary([RIGHT, replace(RIGHT, problems=("bad",)), ZooRow("x", left_out="why")]) == [
        "2 models, 1 with a problem, 1 left out; largest error in float64 2e-15.",
        "6 BatchNorms: 4 folded, 0 merged, 2 left as one multiply-add, 0 kept.",
        "6 other affine ops: 0 folded, 2 merged, 4 left.",
        "18 ops before, 14 after.",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json"], "for --zoo"),
        (["--only", "resnet"], "are for --zoo"),
        (["--zoo", "--json", "--markdown"], "--json or --markdown, not both"),
        (["--zoo", "--only", "resnet1018"], "no model of the zoo has resnet1018 in its name"),
    ],
)
def test_a_mistake_in_the_call_is_status_2(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(cli.app, ["bench", *arguments])
    assert done.exit_code == 2
    assert message in done.stderr


def test_command() -> None:
    done = CliRunner().invoke(cli.app, ["bench", "--zoo", "--only", "squeezenet1_1", "--json"])
    assert done.exit_code == 0
    (row,) = json.loads(done.stdout)["rows"]
    assert row["model"] == "torchvision/squeezenet1_1"
