"""Hands a report to the user: to a callable, or into a file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bnfx.report import Report
from bnfx.report.files import whole

log = logging.getLogger("bnfx")

# A model with graph breaks is compiled graph by graph, and a graph again when a shape changes: a
# file holds the latest of each. Path -> Dynamo's number of the frame -> (compilation, its reports).
_files: dict[Path, dict[object, tuple[object, list[Report]]]] = {}


def deliver(report: Report, where: Callable[..., Any] | str | os.PathLike[str] | None) -> None:
    """Log the report (``TORCH_LOGS="+bnfx"`` shows it) and hand it to ``where``."""
    log.debug("%s", report)
    if where is None:
        return
    if callable(where):
        where(report)
        return
    path = Path(where).absolute()
    compilation = _compilation()
    frame = getattr(compilation, "frame_id", None)
    graphs = _files.setdefault(path, {})
    latest, reports = graphs.get(frame, (None, []))
    graphs[frame] = (compilation, [*reports, report] if latest == compilation else [report])
    write_whole(
        path, render_for(path, Report.merge(r for _, some in graphs.values() for r in some))
    )


def _compilation() -> object:
    """Dynamo's number of what it compiles at present, if it does."""
    guards = sys.modules.get("torch._guards")  # TVM users may have no torch
    context = getattr(guards, "CompileContext", None)
    number = getattr(context, "current_compile_id", None)
    return None if number is None else number()


def render_for(path: Path, report: Report) -> str:
    """The report in the format that the path's suffix asks for."""
    return report.to_json() + "\n" if path.suffix == ".json" else f"{report}\n"


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
