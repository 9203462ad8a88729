"""The page of :mod:`bnfx.bench.zoo.forms`, docs/zoo-forms.md: a row for each model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bnfx.bench.zoo.page import table, versions

_NUMBERS = ("BatchNorms", "left in the class", "vouched for", "in the graph")


@dataclass
class FormsRow:
    """What became of one model.

    Args:
        model, shape: its name, and its input's shape.
        norms: its modules with running statistics.
        class_left: of them, those still there in the class.
        vouched_left: of them, those still there in the class with ``assume="example"``.
        graph_left: those of which the graph keeps a multiply-add or an op; ``None``: no graph.
        unreached: those that the input does not reach.
        form: what ``keep="auto"`` gives: ``"class"`` or ``"graph"``.
        reasons: why the class leaves what it leaves, as the warning puts it.
        error: the largest of the three results.
        seconds: it took.
        problems: what is wrong.
    """

    model: str
    shape: tuple[int, ...]
    norms: int = 0
    class_left: int = 0
    vouched_left: int = 0
    graph_left: int | None = None
    unreached: int = 0
    form: str = ""
    reasons: str = ""
    error: float = 0.0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


_HEAD = """\
# Forms of the result

Each model goes through `bnfx.fold` in every form (see [export.md](export.md#the-same-class-back)),
and each result is compared with the model in float64, BatchNorms randomised. *left in the class*,
*vouched for* (`assume="example"`) and *in the graph* say how many BatchNorms are not folded there:
the graph has a multiply-add for each.

This page is written by `python -m bnfx.bench.zoo.forms`.
"""


def forms_page(rows: Sequence[FormsRow]) -> Iterator[str]:
    """The lines of the page."""
    yield _HEAD
    wrong = sum(bool(row.problems) for row in rows)
    norms = sum(row.norms for row in rows)
    left = sum(row.class_left for row in rows)
    vouched = sum(row.vouched_left for row in rows)
    in_graph = sum(row.graph_left or 0 for row in rows)
    error = max(row.error for row in rows)
    yield f"- {len(rows)} models, {wrong} with a problem; largest error {error:.0e}."
    yield f"- {norms} BatchNorms: {left} left in the class, {vouched} in one that is vouched for,"
    yield f"  {in_graph} in the graph."
    yield f"- {', '.join(versions())}."
    yield ""
    yield from table(("model", *_NUMBERS, 'keep="auto"', "error"), map(cells, rows))


def cells(row: FormsRow) -> tuple[str, ...]:
    """One row of its table."""
    graph = "no graph" if row.graph_left is None else str(row.graph_left)
    norms = f"{row.norms}" + (f" ({row.unreached} not reached)" if row.unreached else "")
    left = (str(row.class_left), str(row.vouched_left), graph)
    return (row.model, norms, *left, row.form, f"{row.error:.0e}")
