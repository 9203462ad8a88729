"""``bnfx demo``: real models, compiled with and without bnfx, side by side."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from bnfx.demo.comparison import print_json, print_table
from bnfx.demo.image import image
from bnfx.demo.measure import STEPS, DemoRow, measure
from bnfx.demo.networks import Case
from bnfx.report.progress import progress
from bnfx.torch_private import BackendCompilerFailed, InvalidCxxCompiler

__all__ = ["DemoRow", "measure", "run"]


def run(
    cases: Sequence[Case],
    *,
    repeats: int,
    as_json: bool = False,
    inner: str | Callable[..., Any] = "inductor",
) -> int:
    """Measure every case and print the result on stdout, progress and problems on stderr.

    Args:
        cases: the models.
        repeats: timed calls of each model, each way.
        as_json: JSON in place of the table.
        inner: see :func:`~bnfx.demo.measure.measure`.

    Returns:
        The exit status: 0, 1 if an answer is wrong, 2 if this machine has no C++ compiler.
    """
    logging.getLogger("torch.utils.cpp_extension").addFilter(_worth_reading)
    picture = image()
    try:
        with progress(len(cases) * len(STEPS)) as tell:
            rows = [_measure(case, picture, repeats, inner, tell) for case in cases]
    except BackendCompilerFailed as error:
        if not isinstance(error.inner_exception, InvalidCxxCompiler):
            raise
        print("bnfx demo: Inductor needs a C++ compiler: install g++, or set CXX", file=sys.stderr)
        return 2
    (print_json if as_json else print_table)(rows, repeats)
    for row in rows:
        for problem in row.problems:
            print(f"bnfx demo: {row.model}: {problem}", file=sys.stderr)
    return int(any(row.problems for row in rows))


def _measure(
    case: Case,
    picture: Any,
    repeats: int,
    inner: str | Callable[..., Any],
    tell: Callable[[str], None],
) -> DemoRow:
    def tell_step(step: str) -> None:
        tell(f"{case.name}: {step}")

    return measure(case.name, case.load(), picture, repeats=repeats, inner=inner, tell=tell_step)


def _worth_reading(record: logging.LogRecord) -> bool:
    """Whether it is not torch's remark that a machine has CUDA's files, but no CUDA."""
    return "No CUDA runtime is found" not in record.getMessage()
