"""The report's three faces agree: data, table, JSON."""

from __future__ import annotations

import json
import re

import torch
from support import randomise
from torch import nn

import bnfx


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


def test_counts_and_order() -> None:
    report = explained()
    outcomes = [(verdict.site.name, verdict.outcome.value) for verdict in report.verdicts]
    assert outcomes == [("1", "folded"), ("3", "lowered"), ("4", "merged"), ("6", "kept")]
    counts = {outcome.value: report.count(outcome) for outcome in bnfx.Outcome}
    assert counts == {"folded": 1, "merged": 1, "lowered": 1, "synchronised": 0, "kept": 1}
    assert [verdict.target for verdict in report.verdicts] == ["0", "", "3", ""]


def test_table() -> None:
    lines = str(explained()).splitlines()
    assert lines[0] == "4 BatchNorms: 1 folded, 1 merged, 1 lowered, 1 kept"
    (kept,) = (line for line in lines if " kept " in line)
    assert "no-running-statistics: it keeps no running statistics" in kept
    assert "test_report.py:" in str(explained()), "what was kept says where it stands"
    assert "no-running-statistics: Train with track_running_stats=True." in lines


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
    from bnfx.passes.report import GraphReport, Outcome, Site, Verdict

    site = Site("layers[0].bn[/bold]", "batch_norm", "file.py:3")
    report = bnfx.Report((GraphReport((Verdict(site, Outcome.KEPT),), ("a [note]",)),))
    assert "layers[0].bn[/bold]" in str(report)
    assert "note: a [note]" in str(report)


def test_affine_ops_are_counted_apart_and_rewrites_added_up() -> None:
    from bnfx.passes.report import GraphReport, Outcome, Site, Verdict

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
