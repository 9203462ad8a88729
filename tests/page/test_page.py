"""The page by itself: what it says without scripts, and that it stands alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from support import DRAWS, randomise
from torch import nn
from typer.testing import CliRunner

import bnfx
from bnfx.cli import app
from bnfx.passes.details import GraphDetails, NormNumbers, Op
from bnfx.passes.report import GraphReport, Outcome, Site, Verdict
from bnfx.report.page.health import findings
from bnfx.report.page.layered import place


class Outline(HTMLParser):
    """Tags with their attributes, and the text of the page without scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._skipped = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._skipped = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skipped = False

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.text += f"{data} "


@DRAWS
def test_it_stands_alone_and_says_the_same_as_the_text(report: bnfx.Report) -> None:
    outline = Outline(report.to_html(title="A <b>title</b>"))
    for tag, attributes in outline.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    words = " ".join(outline.text.split())
    assert "A <b>title</b>" in words
    for line in report.to_text(width=1000).split("\n\n")[0].splitlines():
        assert line in words
    for verdict in report.verdicts:
        assert verdict.site.name in words
        for refusal in verdict.refusals:
            assert refusal.reason in words


def test_details_count_what_is_there(report: bnfx.Report) -> None:
    (graph,) = report.graphs
    details = graph.details
    assert details is not None
    kinds = [op.kind for op in details.before]
    assert kinds.count("batch_norm") == 6
    assert kinds.count("conv2d") == 3
    assert kinds[0], kinds[-1] == ("input", "output")
    carried = sorted(site for op in details.after for site in op.sites)
    assert carried == list(range(len(graph.verdicts))), "each verdict is carried out somewhere"
    stem = next(op for op in details.after if op.name == "stem")
    outcomes = {graph.verdicts[site].site.name for site in stem.sites}
    assert outcomes >= {"norm"}
    before = next(op for op in details.before if op.name == "stem")
    assert before.identity == stem.identity
    assert (before.flops, before.shape) == (2 * 6 * 27 * 2 * 81 + 2 * 6 * 81, (2, 6, 9, 9))
    assert before.weight_bytes == (6 * 27 + 6) * 4


def test_weights_by_channel_are_those_that_are_stored() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).eval()
    (graph,) = bnfx.explain(model, torch.randn(1, 3, 6, 6)).graphs
    assert graph.details is not None
    conv = next(op for op in graph.details.after if op.kind == "conv2d")
    weight = bnfx.fold(model)[0].weight.abs().flatten(1)
    torch.testing.assert_close(torch.tensor(conv.largest), weight.amax(1))
    torch.testing.assert_close(torch.tensor(conv.mean), weight.mean(1))
    norm = graph.details.norms[0]
    scale = model[1].weight / (model[1].running_var + model[1].eps).sqrt()
    torch.testing.assert_close(torch.tensor(norm.scale), scale.detach())
    assert (norm.eps, norm.momentum, norm.tracked) == (1e-5, 0.1, 0)


@DRAWS
@pytest.mark.parametrize("form", ["traced", "exported"])
def test_other_captures_have_details(form: str) -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())).eval()
    program = torch.export.export(model, (torch.randn(1, 3, 6, 6),))
    report = bnfx.explain(model) if form == "traced" else bnfx.explain(program)
    (graph,) = report.graphs
    assert graph.details is not None
    assert [op.kind for op in graph.details.after] == ["input", "conv2d", "relu", "output"]
    assert graph.details.norms[0].tracked == 0
    assert "Health" in report.to_html()


@DRAWS
def test_the_backend_writes_a_page(tmp_path: Path) -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).eval()
    options = {"inner": "eager", "report": tmp_path / "page.html"}
    with torch.no_grad():
        torch.compile(model, backend="bnfx", options=options)(torch.randn(1, 3, 6, 6))
    words = Outline((tmp_path / "page.html").read_text()).text
    assert "1 BatchNorm: 1 folded" in words
    assert "Graph, before and after" in words


@DRAWS
def test_without_details_there_are_verdicts(report: bnfx.Report) -> None:
    bare = bnfx.Report((GraphReport(report.graphs[0].verdicts),))
    words = Outline(bare.to_html()).text
    assert "Verdicts" in words
    assert "Graph, before and after" not in words


@DRAWS
def test_the_command_writes_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(): return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["explain", "net.py:make", "--input", "1x3x4x4", "--html"]
    done = CliRunner().invoke(app, [*words, "page.html"])
    assert done.exit_code == 0, done.output
    assert "page.html" in done.output
    assert "bnfx: net.py:make" in Outline(Path("page.html").read_text()).text
    refused = CliRunner().invoke(app, [*words, "page.htm"])
    assert (refused.exit_code, "must end in .html" in refused.stderr) == (2, True)


def chain(*inputs: tuple[int, ...]) -> list[Op]:
    return [Op(at, f"op{at}", "relu", each) for at, each in enumerate(inputs)]


@DRAWS
def test_each_op_is_below_what_it_reads_and_none_upon_another() -> None:
    long = [(), *((at,) for at in range(40))]
    graphs = [
        chain((), (0,), (1,), (0, 2)),
        chain((), (), (0, 1), (2,), (2,), (3, 4)),
        chain(*long, (40, 0), (3, 41)),  # edges that reach far
        chain((), ()),
        chain(()),
        [],
    ]
    for ops in graphs:
        placed = place(ops)
        assert set(placed.centres) == {op.identity for op in ops}
        assert len(set(placed.centres.values())) == len(ops)
        ends = {(edge.source, edge.target) for edge in placed.edges}
        assert ends == {(source, op.identity) for op in ops for source in op.inputs}
        for edge in placed.edges:
            levels = [placed.centres[edge.source][1], *(y for _, y in edge.bends)]
            levels.append(placed.centres[edge.target][1])
            assert levels == sorted(levels)
            assert levels[0] < levels[-1]
    assert any(edge.is_far for edge in place(graphs[2]).edges)


HEALTHY = NormNumbers(1e-5, 0.1, (1.0, 1.0), (1.0, 2.0), (1.0, -1.0), 5)


@pytest.mark.parametrize(
    ("norm", "title"),
    [
        (NormNumbers(1e-3, 0.01, (1.0,), (1.0,)), None),
        (NormNumbers(1e-5, None, (1.0,), (1.0,), (), None), None),
        (NormNumbers(1e-5, 0.1, (1.0,), (1.0,), (1.0,), 0), "No batch was ever tracked"),
        (NormNumbers(1e-5, 0.1, (1.0,), (1e-5,)), "eps is at least as large as running variances"),
        (NormNumbers(1e-5, 0.1, (0.0, 1.0), (1.0, 1.0), (0.0, 1.0)), "Channels that gamma switch"),
        (NormNumbers(1e-2, 0.1, (1.0,), (1.0,)), "An unusual eps"),
        (NormNumbers(1e-5, 0.9, (1.0,), (1.0,)), "An unusual momentum"),
        (NormNumbers(1e-5, 0.1, (float("nan"),), (1.0,)), "Numbers that are NaN or infinite"),
        (NormNumbers(1e-5, 0.1, (1.0,), (float("inf"),)), "Numbers that are NaN or infinite"),
    ],
)
def test_health(norm: NormNumbers, title: str | None) -> None:
    found = findings({"good": HEALTHY, "layer": norm}, {})
    assert [(f.title[:26], [name for name, _ in f.layers]) for f in found] == (
        [] if title is None else [(title[:26], ["layer"])]
    )


@pytest.mark.parametrize(
    ("largest", "figures"),
    [
        ((1.0, 8000.0), None),
        ((1.0, 9000.0), "1 of 2 channels up to 9e+03"),
        ((1.0, 5e-5), "1 of 2 channels with no weight above 6e-05"),
        ((1.0, 0.0), None),
    ],
)
def test_health_of_half_precision(largest: tuple[float, ...], figures: str | None) -> None:
    found = findings({}, {"conv": Op(0, "conv", "conv2d", largest=largest)})
    assert [each.layers for each in found] == ([] if figures is None else [(("conv", figures),)])


@DRAWS
def test_numbers_that_float32_lacks_are_shown_as_infinite() -> None:
    norm = NormNumbers(1e-5, 0.1, (1e300, -1e300, float("nan")), (1.0,) * 3)
    op = Op(0, "bn", "batch_norm", sites=(0,))
    verdict = Verdict(Site("bn", "batch_norm"), Outcome.LOWERED)
    graph = GraphReport((verdict,), details=GraphDetails((op,), (op,), {0: norm}))
    assert re.search(r'"scale":"AACAfwAAgP8AAMB/"', bnfx.Report((graph,)).to_html())
