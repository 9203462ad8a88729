"""``bnfx demo``: real models, compiled with and without bnfx, side by side."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from bnfx.bench.on_models.bench_worker import Subject
from bnfx.demo.comparison import print_json, print_table
from bnfx.demo.measure import STEPS, DemoRow, measure
from bnfx.report.progress import progress
from bnfx.torch_private import InvalidCxxCompiler

__all__ = ["DemoRow", "measure", "run"]


def run(cases: Sequence[Subject], *, repeats: int, as_json: bool = False) -> int:
    """Measure every case and print the result on stdout, progress and problems on stderr.

    Args:
        cases: the models.
        repeats: timed calls of each model, each way.
        as_json: JSON in place of the table.

    Returns:
        The exit status: 0, 1 if an answer is wrong or missing, 2 if this machine has no C++
        compiler.
    """
    logging.getLogger("torch.utils.cpp_extension").addFilter(_worth_reading)
    rows: list[DemoRow] = []
    with progress(len(cases) * STEPS) as tell:
        for case in cases:
            rows.append(_measure(case, repeats, tell))
            if _lacks_compiler(rows[-1]):
                break
    if _lacks_compiler(rows[-1]):
        print("bnfx demo: Inductor needs a C++ compiler: install g++, or set CXX", file=sys.stderr)
        return 2
    (print_json if as_json else print_table)(rows, repeats)
    for row in rows:
        for problem in row.problems:
            print(f"bnfx demo: {row.model}: {problem}", file=sys.stderr)
    return int(any(row.problems for row in rows))


def _measure(case: Subject, repeats: int, tell: Callable[[str], None]) -> DemoRow:
    def tell_step(step: str) -> None:
        tell(f"{case.name}: {step}")

    return measure(case, repeats=repeats, tell=tell_step)


def _lacks_compiler(row: DemoRow) -> bool:
    return any(InvalidCxxCompiler.__name__ in problem for problem in row.problems)


def _worth_reading(record: logging.LogRecord) -> bool:
    """Whether it is not torch's remark that a machine has CUDA's files, but no CUDA."""
    return "No CUDA runtime is found" not in record.getMessage()
