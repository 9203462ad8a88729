"""A report as a table for people."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from bnfx.passes.refusals import MEANINGS
from bnfx.passes.report import Outcome, Verdict
from bnfx.report.wording import counted

_WIDTH = 120
_KINDS = {"batch_norm": "BatchNorm", "affine": "affine op"}


def render(
    verdicts: Sequence[Verdict], weights: Sequence[tuple[str, str]], notes: Sequence[str]
) -> str:
    """The table, a line of counts above it; how weights are held, and the notes, below."""
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, legacy_windows=False)
    console.print(_summary(verdicts))
    if verdicts:
        console.print(_table(verdicts))
    for line in _remedies(verdicts):
        console.print(line, markup=False)
    for form, reason in weights:
        console.print(f"weights: {form} ({reason})", markup=False)
    for note in notes:
        console.print(f"note: {note}", markup=False)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def _summary(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return "no BatchNorm in the graph"
    lines = []
    for kind, name in _KINDS.items():
        some = [verdict for verdict in verdicts if verdict.site.kind == kind]
        counts = ((outcome, sum(v.outcome is outcome for v in some)) for outcome in Outcome)
        parts = ", ".join(f"{count} {outcome.value}" for outcome, count in counts if count)
        if some:
            lines.append(f"{counted(len(some), name)}: {parts}")
    return "\n".join(lines)


def _table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("BatchNorm or affine op", "outcome", "into", "error", "why not folded"):
        table.add_column(column, overflow="fold")
    for verdict in verdicts:
        why = "\n".join(map(str, verdict.refusals))
        if verdict.outcome is Outcome.KEPT and verdict.site.location:
            why += f"\nat {verdict.site.location}"
        error = "" if verdict.error is None else f"{verdict.error:.0e}"
        cells = (verdict.site.name, verdict.outcome.value, verdict.target, error, why)
        table.add_row(*map(_escape, cells))
    return table


def _remedies(verdicts: Sequence[Verdict]) -> list[str]:
    """What to do about each code, once; nothing where nothing need be done."""
    codes = dict.fromkeys(refusal.code for verdict in verdicts for refusal in verdict.refusals)
    remedies = {code.value: MEANINGS[code].remedy for code in codes}
    return [
        f"{code}: {remedy}" for code, remedy in remedies.items() if not remedy.startswith("None")
    ]


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
