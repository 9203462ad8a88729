"""Passes a report to a callable or writes it to a file. A failure here is only a warning."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bnfx.errors import ReportWarning
from bnfx.passes.user_warnings import warn
from bnfx.report import Report
from bnfx.report.files import whole
from bnfx.report.trace_artifact import add_to_trace, is_tracing

log = logging.getLogger("bnfx")

_FILES, _GRAPHS = 16, 256  # that are remembered, the latest
_Graphs = OrderedDict[object, tuple[object, list[Report]]]
# A model with graph breaks is compiled graph by graph, and a graph again when a shape changes: a
# file holds the latest of each. Path -> Dynamo's number of the frame -> (compilation, its reports).
_files: OrderedDict[Path, _Graphs] = OrderedDict()
_lock = threading.Lock()


def anyone_gets_it(where: object) -> bool:
    """Whether :func:`deliver` would hand a report to ``where``, to a log or to a trace."""
    return where is not None or log.isEnabledFor(logging.DEBUG) or is_tracing()


def deliver(report: Report, where: Callable[..., Any] | str | os.PathLike[str] | None) -> None:
    """Log the report (``TORCH_LOGS="+bnfx"`` shows it), add it to torch's structured trace
    (``TORCH_TRACE``), and hand it to ``where``.

    If the callable raises, or the path cannot be written to, a
    :class:`~bnfx.errors.ReportWarning` says so.
    """
    add_to_trace(report)
    try:
        log.debug("%s", report)
        if callable(where):
            where(report)
        elif where is not None:
            _add_to_file(report, Path(where).absolute())
    except Exception as error:
        log.debug("the report is lost", exc_info=True)
        to = "be handed to its callable" if callable(where) else f"be written to {where}"
        warn(f"bnfx: the report could not {to}, and is left out: {error!r}", ReportWarning)


def _add_to_file(report: Report, path: Path) -> None:
    compilation = _compilation()
    frame = getattr(compilation, "frame_id", None)
    with _lock:
        graphs: _Graphs = _kept(_files, path, OrderedDict(), _FILES)
        latest, reports = graphs.get(frame, (None, []))
        reports = [*reports[-_GRAPHS:], report] if latest == compilation else [report]
        graphs.pop(frame, None)
        _kept(graphs, frame, (compilation, reports), _GRAPHS)
        merged = Report.merge(r for _, some in graphs.values() for r in some)
        write_whole(path, render_for(path, merged))


def _kept(table: OrderedDict[Any, Any], key: object, value: Any, most: int) -> Any:
    """The value of ``key``, now the latest; beyond ``most``, the oldest is dropped."""
    value = table.setdefault(key, value)
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)
    return value


def _compilation() -> object:
    """Dynamo's number for its current compilation, if there is one."""
    guards = sys.modules.get("torch._guards")  # TVM users may have no torch
    context = getattr(guards, "CompileContext", None)
    number = getattr(context, "current_compile_id", None)
    return None if number is None else number()


def render_for(path: Path, report: Report) -> str:
    """The report in the format that the path's suffix selects."""
    if path.suffix == ".html":
        return report.to_html()
    return report.to_json() + "\n" if path.suffix == ".json" else f"{report}\n"


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
