"""Shows the demo's rows: as a table or as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from bnfx.bench.on_models.model_race import all_finite
from bnfx.demo.measure import DemoRow

HINT = "What became of each BatchNorm, and why: print(bnfx.explain(model, x))"
_WIDTH = 120  # what the table needs; on a narrower terminal, a wrapped number beats a lost one


def print_table(rows: Sequence[DemoRow], repeats: int) -> None:
    """The table, a line that sums it up, and a hint, on stdout."""
    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)
    console.print(_table(rows))
    console.print(summary(rows), soft_wrap=True)
    console.print(
        f"Times: median of {repeats} calls, each way in its own process, in turns; batch 1, "
        f"float32, no_grad, {torch.get_num_threads()} CPU threads, torch {torch.__version__}.",
        soft_wrap=True,
    )
    console.print(HINT, soft_wrap=True)


def print_json(rows: Sequence[DemoRow], repeats: int) -> None:
    """The rows as one JSON object on stdout; an infinite or NaN number is null."""
    document = {
        "version": 1,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "rows": [
            {**asdict(row), "over_inductor": row.over_inductor, "over_eager": row.over_eager}
            for row in rows
        ],
    }
    print(json.dumps(all_finite(document), indent=2, allow_nan=False))


def summary(rows: Sequence[DemoRow]) -> str:
    """One line: what was folded, how exact, how fast (geometric means)."""
    before, folded = sum(row.batch_norms for row in rows), sum(row.folded for row in rows)
    left, kept = sum(row.multiply_add for row in rows), sum(row.kept for row in rows)
    inductor = statistics.geometric_mean(row.over_inductor for row in rows)
    eager = statistics.geometric_mean(row.over_eager for row in rows)
    wrong = sum(bool(row.problems) for row in rows)
    right = f"{wrong} of {len(rows)} answers WRONG" if wrong else f"all {len(rows)} answers right"
    return (
        f"{folded} of {before} BatchNorms folded away, {left} left as one multiply-add, "
        f"{kept} kept; {right}; "
        f"{inductor:.2f}x as fast as Inductor alone, {eager:.2f}x as fast as eager."
    )


def _table(rows: Sequence[DemoRow]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for heading in (
        "Batch-\nNorms",
        "folded",
        "mul-\nadd",
        "kept",
        "error\nfloat32",
        "error\nfloat64",
        "eager\nms",
        "Inductor\nms",
        "bnfx\nms",
        "over\nInductor",
        "over\neager",
        "",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.model, *_cells(row), style="red" if row.problems else None)
    return table


def _cells(row: DemoRow) -> list[str]:
    return [
        *map(str, (row.batch_norms, row.folded, row.multiply_add, row.kept)),
        *(f"{error:.1e}" for error in (row.error, row.error_float64)),
        *(f"{ms:.1f}" for ms in (row.eager_ms, row.inductor_ms, row.bnfx_ms)),
        *(f"{ratio:.2f}x" for ratio in (row.over_inductor, row.over_eager)),
        "WRONG" if row.problems else "right",
    ]
