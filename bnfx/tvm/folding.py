"""What the passes and build hooks of TVM's two IRs share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from bnfx.options import check_report, draws_details, parse_rules
from bnfx.passes.report import GraphReport
from bnfx.report import Report
from bnfx.report.output import deliver

ReportTarget = Callable[[Report], Any] | str | os.PathLike[str] | None
Pass = TypeVar("Pass")


class Folding:
    """The state of a fold: which rules, and what became of the last module.

    Args:
        rules: ``"all"``, ``"none"`` or names of rules, as in ``torch.compile``'s options.
        report: where the :class:`bnfx.Report` of each run goes: a callable, or a path.

    Attributes:
        report: the :class:`bnfx.Report` of the last run, ``None`` before the first.
    """

    def __init__(self, rules: str | Sequence[str] = "all", report: ReportTarget = None) -> None:
        self._rules = parse_rules(rules)
        check_report(report)
        self._deliver = report
        self._detailed = draws_details(report)
        self.report: Report | None = None

    def _tell(self, reports: Sequence[GraphReport]) -> None:
        """Keep the report of a run, and hand it on."""
        self.report = Report(tuple(reports))
        deliver(self.report, self._deliver)


def enabled(fold: Any) -> Any:
    """``fold``, unless the ``PassContext`` around disables it by its name, as TVM's own are.

    TVM asks for ``disabled_pass`` in a ``Sequential`` alone, not where a pass is called.
    """
    import tvm

    return tvm.transform.Sequential([fold])


class Hook(Generic[Pass]):
    """A pass that builds within a block shall run; each thread (or task) has its own.

    Args:
        name: of the context variable.
    """

    def __init__(self, name: str) -> None:
        self._pass: ContextVar[Pass | None] = ContextVar(name, default=None)

    @contextlib.contextmanager
    def held(self, fold: Pass) -> Iterator[Pass]:
        """Builds in this block run ``fold``."""
        token = self._pass.set(fold)
        try:
            yield fold
        finally:
            self._pass.reset(token)

    @contextlib.contextmanager
    def taken(self) -> Iterator[Pass | None]:
        """The pass of the block around, if any, which builds inside this one do not see."""
        fold = self._pass.get()
        token = self._pass.set(None)
        try:
            yield fold
        finally:
            self._pass.reset(token)
