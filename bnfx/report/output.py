"""Hands a report to the user: to a callable, or into a file."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bnfx.report import Report

log = logging.getLogger("bnfx")

# A model with graph breaks is compiled graph by graph; a report file holds all of them so far.
_files: dict[Path, Report] = {}


def deliver(report: Report, where: Callable[..., Any] | str | os.PathLike[str] | None) -> None:
    """Log the report (``TORCH_LOGS="+bnfx"`` shows it) and hand it to ``where``."""
    log.debug("%s", report)
    if where is None:
        return
    if callable(where):
        where(report)
        return
    path = Path(where).absolute()
    _files[path] = Report.merge([_files.get(path, Report()), report])
    write_whole(path, render_for(path, _files[path]))


def render_for(path: Path, report: Report) -> str:
    """The report in the format that the path's suffix asks for."""
    return report.to_json() + "\n" if path.suffix == ".json" else f"{report}\n"


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
