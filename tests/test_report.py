"""The report's three faces agree: data, table, JSON."""

from __future__ import annotations

import json
import re

import pytest
import torch
from support import randomise
from torch import nn

import bnfx
from bnfx.passes.refusals import Refusal
from bnfx.passes.report import GraphReport, Outcome, Site, Verdict
from bnfx.report import Report


class Net(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x)
        return x


def explained() -> bnfx.Report:
    model = Net(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.BatchNorm2d(5),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.BatchNorm2d(5, track_running_stats=False),
    )
    return bnfx.explain(randomise(model).eval(), torch.randn(2, 3, 6, 7))


@pytest.mark.slow
def test_counts_and_order() -> None:
    report = explained()
    outcomes = [(verdict.site.name, verdict.outcome.value) for verdict in report.verdicts]
    assert outcomes == [("1", "folded"), ("3", "lowered"), ("4", "merged"), ("6", "kept")]
    counts = {outcome.value: report.count(outcome) for outcome in bnfx.Outcome}
    assert counts == {"folded": 1, "merged": 1, "lowered": 1, "synchronised": 0, "kept": 1}
    assert [verdict.target for verdict in report.verdicts] == ["0", "", "3", ""]


def test_text() -> None:
    """The counts and what they mean come first; only what was left has a row."""
    text = explained().to_text(width=200)
    text = re.sub(r"\(\S*test_report\.py:\d+\)", "(file:line)", text)
    assert re.sub(r"\de-08", "5e-08", text) == (
        "4 BatchNorms: 1 folded, 1 merged, 1 lowered, 1 kept\n"
        "1 became one multiply-add, which compilers fuse.\n"
        "1 is left as in the model; below is why.\n"
        "Storing the folded numbers changes them by at most 5e-08 of a channel.\n"
        "\n"
        "1 kept: 6 (file:line)\n"
        "  no-running-statistics: it keeps no running statistics\n"
        "  What to do: Train with track_running_stats=True.\n"
        "\n"
        "1 lowered: 3\n"
        "  nonzero-shift: it would have to cross 2 (and 1 more like it)"
    )


def test_text_of_every_site() -> None:
    rows = explained().to_text(every=True, width=200).split("\n\n")[1].splitlines()
    heads = [row.split(" (")[0] for row in rows if not row.startswith(" ")]
    assert heads == ["1: folded into 0", "3: lowered", "4: merged into 3", "6"]
    assert sum("nonzero-shift" in row for row in rows) == 2, "each reason has a line of its own"


def made(*verdicts: Verdict) -> bnfx.Report:
    return bnfx.Report((GraphReport(verdicts),))


def lowered(name: str, *codes: bnfx.Code) -> Verdict:
    refusals = tuple(Refusal(code, f"because of {name}") for code in codes)
    return Verdict(Site(name, "batch_norm"), Outcome.LOWERED, refusals=refusals)


def test_equal_reasons_share_a_row() -> None:
    shift, readers = bnfx.Code.NONZERO_SHIFT, bnfx.Code.OTHER_READERS
    report = made(*(lowered(f"bn{i}", shift, *[readers] * i) for i in range(1, 60)))
    assert report.to_text(width=80).splitlines()[3:] == [
        "59 lowered: bn1 and 58 others like it",
        "  nonzero-shift: because of bn1",
        "  other-readers: because of bn1",
    ]


def test_nothing_is_advised_that_changes_nothing() -> None:
    """A BatchNorm that also stands before a ReLU folds no better where sizes are fixed."""
    shift, size = bnfx.Code.NONZERO_SHIFT, bnfx.Code.DYNAMIC_SHAPE
    assert "What to do" not in made(lowered("bn", shift, size)).to_text()
    assert "What to do: Compile with dynamic=False;" in made(lowered("bn", size)).to_text()


def test_names_are_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "features.denseblock1.denselayer1-norm1.relu_" * 3
    report = made(lowered(name, bnfx.Code.NONZERO_SHIFT))
    for columns in (1, 40, 80, 300):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = str(report).splitlines()
        assert any(name in line.split() for line in lines)
        assert all(len(line) <= max(columns, 40) for line in lines if name not in line)


def test_in_training_mode_nothing_else_is_said() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.BatchNorm2d(5)))
    text = bnfx.explain(model.train(), torch.randn(2, 3, 6, 7)).to_text(width=100)
    assert text.splitlines() == [
        "2 BatchNorms: 2 kept",
        "2 are left as in the model; below is why.",
        "",
        "2 kept: 1 and 1 other like it",
        "  training-mode: it is in training mode",
        "  What to do: Call model.eval() first (in Relax: nn.batch_norm with training=False).",
    ]


def test_without_inputs_it_says_that_they_may_fold_more() -> None:
    model = randomise(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    ).eval()
    text = bnfx.explain(model).to_text(width=100)
    assert "nothing to do" not in text
    assert "What to do: Pass example inputs" in text
    assert "nothing to do" in bnfx.explain(model, torch.randn(1, 3, 8, 8)).to_text(width=100)


def test_a_package_is_named_without_where_it_is_installed() -> None:
    site = Site("bn", "batch_norm", "/opt/venv/lib/python3.11/site-packages/net/resnet.py:7")
    text = Report((GraphReport((Verdict(site, Outcome.KEPT),)),)).to_text()
    assert "1 kept: bn (net/resnet.py:7)" in text


def test_json() -> None:
    report = explained()
    data = json.loads(report.to_json())
    assert data == report.to_dict()
    assert data["version"] == 2
    outcomes = {"folded": 1, "merged": 1, "lowered": 1, "synchronised": 0, "kept": 1}
    assert data["summary"] == outcomes
    assert data["affine"] == dict.fromkeys(outcomes, 0)
    assert data["rewrites"] == report.rewrites
    assert report.rewrites == {
        "fold-affine-into-linear": 1,
        "merge-affines": 1,
    }
    (graph,) = data["graphs"]
    first, _, _, last = graph["verdicts"]
    assert first == {
        "name": "1",
        "kind": "batch_norm",
        "location": first["location"],
        "outcome": "folded",
        "target": "0",
        "error": first["error"],
        "refusals": [],
    }
    assert 0 < first["error"] <= 2**-24, "half a unit in the last place of float32"
    assert last["error"] is None
    assert last["refusals"] == [
        {"code": "no-running-statistics", "reason": "it keeps no running statistics"}
    ]
    assert re.search(r"test_report\.py:\d+$", first["location"])


def test_brackets_in_names_are_no_markup() -> None:
    site = Site("layers[0].bn[/bold]", "batch_norm", "file.py:3")
    report = bnfx.Report((GraphReport((Verdict(site, Outcome.KEPT),), ("a [note]",)),))
    assert "layers[0].bn[/bold]" in str(report)
    assert "note: a [note]" in str(report)


def test_affine_ops_are_counted_apart_and_rewrites_added_up() -> None:
    norm, times = Site("bn", "batch_norm"), Site("mul", "affine")
    graph = GraphReport(
        (Verdict(norm, Outcome.LOWERED), Verdict(times, Outcome.FOLDED, "conv", error=1e-8)),
        rewrites={"move-affine": 2},
    )
    report = bnfx.Report.merge([bnfx.Report((graph,)), bnfx.Report((graph,))])
    assert report.rewrites == {"move-affine": 4}
    assert [report.count("folded"), report.count("lowered")] == [0, 2]
    assert report.count("folded", "affine") == 2
    data = report.to_dict()
    assert data["affine"] == {**dict.fromkeys(data["summary"], 0), "folded": 2}
    assert data["rewrites"] == {"move-affine": 4}
    assert str(report).splitlines()[:2] == ["2 BatchNorms: 2 lowered", "2 affine ops: 2 folded"]
    assert "1e-08" in str(report)


def test_explaining_leaves_the_model_alone() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = bnfx.explain(model, torch.randn(2, 3, 6, 7))
    assert [r.code for r in report.verdicts[0].refusals] == [bnfx.Code.TRAINING_MODE]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training


def test_explaining_often_is_no_recompilation() -> None:
    """Dynamo gives up on code that it has compiled too often; explaining must not use that up."""
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).eval()
    for _ in range(20):
        assert bnfx.explain(model, torch.randn(2, 3, 6, 7)).count("folded") == 1
    model[1].running_var[0] = -1.0
    assert bnfx.explain(model, torch.randn(2, 3, 6, 7)).count("kept") == 1


def test_a_compiled_model_can_be_explained_and_folded() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).eval()
    compiled = torch.compile(model, backend="bnfx")
    assert bnfx.explain(compiled, torch.randn(2, 3, 6, 7)).count("folded") == 1
    assert type(bnfx.fold(compiled)) is nn.Sequential


def test_a_batch_norm_in_no_graph_is_noted() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
            self.unused = nn.BatchNorm2d(5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    report = bnfx.explain(randomise(Partly()).eval(), torch.randn(2, 3, 6, 7))
    assert report.count("folded") == 1
    (note,) = report.notes
    assert note.endswith(": unused")


def test_decomposed_exports_are_accounted_for() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).eval()
    exported = torch.export.export(model, (torch.randn(2, 3, 6, 7),)).run_decompositions()
    report = bnfx.explain(exported.module())
    assert [r.code for r in report.verdicts[0].refusals] == [bnfx.Code.UNSUPPORTED_FORM]
