"""Writes docs/zoo.md from the zoo's rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from textwrap import shorten

from bnfx.bench.zoo.row import ZooRow
from bnfx.bench.zoo.show import HEADINGS, cells, summary

_PACKAGES = ("torch", "torchvision", "timm", "segmentation-models-pytorch")
_HEAD = """\
# The zoo

Every model below is compiled with `backend="bnfx"` and an inner compiler that runs the graph as it
is, and compared with the model itself: `max|bnfx - model| / max|model|`, in float64 (float32 only
where a model has more than 150 million parameters). Nothing is downloaded: weights are random, and
every BatchNorm has signed random parameters, and statistics near those of its input.

*affine ops* are additions and multiplications by constants or parameters, as of FrozenBatchNorm2d
and of layer scale; *left* of them are still ops of their own. *convs* are convolutions and linear
layers, *ops* all nodes that compute something: as Dynamo captured the graph, and *after* bnfx. A
multiply-add counts as two ops.

This page is written by `bnfx bench --zoo --markdown`.
"""


def print_markdown(rows: Sequence[ZooRow]) -> None:
    """The whole page, on stdout."""
    print("\n".join(_page(rows)))


def _page(rows: Sequence[ZooRow]) -> Iterator[str]:
    run = [row for row in rows if not row.left_out]
    yield _HEAD
    yield from (f"- {line}" for line in summary(rows))
    yield f"- {', '.join(versions())}."
    yield ""
    yield from table(("model", "input", *HEADINGS), (_model(row) for row in run))
    yield from _section("Rules", _rules(run))
    yield from _section("Why a BatchNorm did not fold", _reasons(run, "batch_norm"))
    yield from _section("Why an affine op did not fold", _reasons(run, "affine"))
    left_out = [f"- {row.model}: {row.left_out}" for row in rows if row.left_out]
    yield from _section("Left out", left_out)
    wrong = [f"- {row.model}: {problem}" for row in run for problem in row.problems]
    yield from _section("Problems", wrong)


def _model(row: ZooRow) -> tuple[str, ...]:
    return (row.model, "x".join(map(str, row.shape)), *cells(row))


def _rules(rows: Sequence[ZooRow]) -> list[str]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row.rewrites)
    lines = ((f"`{rule}`", str(count)) for rule, count in counts.most_common())
    return list(table(("rule", "times"), lines)) if counts else []


def _reasons(rows: Sequence[ZooRow], kind: str) -> list[str]:
    """How often each code was given, in how many models, and one of its sentences."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row.refusals.get(kind, {}))
    lines = []
    for code, count in counts.most_common():
        given = [row for row in rows if code in row.refusals.get(kind, {})]
        reason = shorten(given[0].reasons[code], 120, placeholder=" ...").replace("|", "\\|")
        example = f"{reason} ({given[0].model})"
        lines.append((f"`{code}`", str(count), str(len(given)), example))
    return list(table(("code", "times", "models", "for example"), lines)) if lines else []


def versions() -> Iterator[str]:
    """Of the packages that are installed."""
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield from ("", f"## {title}", "", *lines)


def table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _line(headings)
    yield _line(["---"] * len(headings))
    yield from map(_line, lines)


def _line(parts: Sequence[str]) -> str:
    return f"| {' | '.join(parts)} |"
