"""Shows the zoo's rows: as a table, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from bnfx.bench.zoo.row import Outcomes, ZooRow

_WIDTH = 140  # what the table needs; on a narrower terminal, a wrapped number beats a lost one
HEADINGS = (
    "BatchNorms",
    "folded",
    "merged",
    "multiply-add",
    "kept",
    "affine ops",
    "left",
    "convs",
    "after",
    "ops",
    "after",
    "error",
)


def cells(row: ZooRow) -> list[str]:
    """One cell for each of :data:`HEADINGS`."""
    norms, affines = row.batch_norms, row.affines
    numbers = (
        *(norms.total, norms.folded, norms.merged, norms.lowered, norms.kept),
        *(affines.total, affines.left),
        *(row.before.linears, row.after.linears, row.before.ops, row.after.ops),
    )
    narrow = "" if row.dtype == "float64" else f" ({row.dtype})"
    return [*map(str, numbers), f"{row.error:.0e}{narrow}"]


def total(rows: Sequence[ZooRow], kind: str) -> Outcomes:
    """Outcomes over all rows; ``kind`` is ``"batch_norms"`` or ``"affines"``."""
    every: list[Outcomes] = [getattr(row, kind) for row in rows]
    names = [field.name for field in fields(Outcomes)]
    return Outcomes(**{name: sum(getattr(one, name) for one in every) for name in names})


def summary(rows: Sequence[ZooRow]) -> list[str]:
    """What became of everything, over all rows; a sentence each."""
    run = [row for row in rows if not row.left_out]
    norms, affines = total(run, "batch_norms"), total(run, "affines")
    wrong = sum(bool(row.problems) for row in run)
    before, after = (sum(getattr(row, side).ops for row in run) for side in ("before", "after"))
    worst = max((row.error for row in run if row.dtype == "float64"), default=0.0)
    return [
        f"{len(run)} models, {wrong} with a problem, {len(rows) - len(run)} left out; "
        f"largest error in float64 {worst:.0e}.",
        f"{norms.total} BatchNorms: {norms.folded} folded, {norms.merged} merged, "
        f"{norms.lowered} left as one multiply-add, {norms.kept} kept.",
        f"{affines.total} other affine ops: {affines.folded} folded, {affines.merged} merged, "
        f"{affines.left} left.",
        f"{before} ops before, {after} after.",
    ]


def print_table(rows: Sequence[ZooRow]) -> None:
    """The table, and the lines that sum it up, on stdout."""
    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading.replace("-", "-\n").replace(" ", "\n"), justify="right")
    table.add_column("s", justify="right")
    table.add_column("")
    for row in rows:
        if row.left_out:
            table.add_row(row.model, *[""] * (len(HEADINGS) + 1), "left out")
            continue
        verdict = "WRONG" if row.problems else "right"
        style = "red" if row.problems else None
        table.add_row(row.model, *cells(row), f"{row.seconds:.1f}", verdict, style=style)
    console.print(table)
    for row in rows:
        if row.left_out:
            console.print(f"left out: {row.model}: {row.left_out}", soft_wrap=True, markup=False)
    for line in summary(rows):
        console.print(line, soft_wrap=True)


def print_json(rows: Sequence[ZooRow]) -> None:
    """The rows as one JSON object on stdout; an infinite or NaN number is null."""
    document = {
        "version": 1,
        "torch": str(torch.__version__),
        "rows": [_finite(row.to_dict()) for row in rows],
    }
    print(json.dumps(document, indent=2, allow_nan=False))


def _finite(data: dict[str, Any]) -> dict[str, Any]:
    error = data["error"]
    return {**data, "error": error if math.isfinite(error) else None}
