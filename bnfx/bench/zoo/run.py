"""``bnfx bench --zoo``: every model of the zoo through bnfx, and what became of it."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from bnfx.bench.zoo.assess import Inner, as_it_is, measure
from bnfx.bench.zoo.catalogue import ZooModel
from bnfx.bench.zoo.page import print_markdown
from bnfx.bench.zoo.row import ZooRow
from bnfx.bench.zoo.rows_file import append_row, read_rows
from bnfx.bench.zoo.show import print_json, print_table
from bnfx.report.progress import progress

TableFormat = Literal["table", "json", "markdown"]

# Models with more parameters run in float32: in float64 they do not fit beside their folded copies.
MAX_WIDE = 150e6
_PRINT = {"table": print_table, "json": print_json, "markdown": print_markdown}


def run(
    entries: Sequence[ZooModel],
    *,
    form: TableFormat = "table",
    rows: Path | None = None,
    inner: Inner = as_it_is,
) -> int:
    """Measure every model and print the result on stdout, progress and problems on stderr.

    A model that cannot be measured is a problem like a wrong answer, and the run goes on.

    Args:
        entries: the models.
        form: how the result is printed.
        rows: a file of rows, one JSON object a line. Each row is added once it is measured, and a
            model that is there already is not measured again.
        inner: the compiler that bnfx hands graphs to.

    Returns:
        The exit status: 0, or 1 if a model has a problem.
    """
    known = read_rows(rows, ZooRow.from_dict)
    measured = []
    with progress(len(entries)) as tell:
        for entry in entries:
            tell(entry.name)
            if entry.name not in known:
                known[entry.name] = _measure(entry, inner)
                append_row(rows, known[entry.name].to_dict())
            measured.append(known[entry.name])
    _PRINT[form](measured)
    for row in measured:
        for problem in row.problems:
            print(f"bnfx bench: {row.model}: {problem}", file=sys.stderr)
    return int(any(row.problems for row in measured))


def select(entries: Iterable[ZooModel], only: Sequence[str]) -> list[ZooModel]:
    """The entries with one of ``only`` in their name; all if it is empty."""
    return [entry for entry in entries if not only or any(part in entry.name for part in only)]


def _measure(entry: ZooModel, inner: Inner) -> ZooRow:
    if entry.left_out:
        return ZooRow(entry.name, left_out=entry.left_out)
    start = time.perf_counter()
    try:
        row = _run(entry, inner)
    except Exception as error:
        row = ZooRow(entry.name, entry.shape, problems=(_describe(error),))
    finally:
        torch._dynamo.reset()
        gc.collect()
    return replace(row, seconds=time.perf_counter() - start)


def _describe(error: Exception) -> str:
    """What was raised, where, and the first paragraph of what it says."""
    error = getattr(error, "inner_exception", error)  # Dynamo wraps what a backend raises
    where = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).partition("\n\n")[0].split())
    return f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {message}"


def _run(entry: ZooModel, inner: Inner) -> ZooRow:
    random = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = entry.load().eval()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        dtype = torch.float64 if parameters <= MAX_WIDE else torch.float32
        x = torch.randn(entry.shape, generator=random, dtype=torch.float64).to(dtype)
        return measure(entry.name, model.to(dtype), x, inner=inner)
