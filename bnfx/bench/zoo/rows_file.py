"""A file of rows, one JSON object a line: a run that was cut off goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar


class _Named(Protocol):
    @property
    def model(self) -> str: ...


Row = TypeVar("Row", bound=_Named)


def read_rows(path: Path | None, make: Callable[[dict[str, Any]], Row]) -> dict[str, Row]:
    """The rows in ``path``, by model; of two of a model, the later one. None if it isn't there.

    Args:
        path: the file.
        make: a row from what a line holds.
    """
    lines = path.read_text().splitlines() if path is not None and path.exists() else ()
    return {row.model: row for row in (make(json.loads(line)) for line in lines)}


def append_row(path: Path | None, row: Mapping[str, Any]) -> None:
    """Add a row to ``path``, if there is to be a file."""
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
