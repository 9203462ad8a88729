"""Results that survive whatever ends the run: a line is added to a file for each row.

Both processes of a run, and a later run into the same folder, add to the same file; JSON and the
Markdown tables are written anew after each row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnfx.bench.on_gpu.result_tables import markdown

Row = dict[str, Any]


class KeptRows:
    """The rows of one folder: ``rows.jsonl``, ``results.json`` and ``results.md``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = folder / "rows.jsonl"

    def add(self, kind: str, name: str, values: Mapping[str, Any]) -> None:
        """Keep one more row; it takes the place of an older one of the same kind and name.

        Args:
            kind: ``"machine"``, ``"test"``, ``"speed"``, ``"training"`` or ``"begun"``.
            name: of what was measured.
        """
        with self._lines.open("a") as file:
            file.write(json.dumps({"kind": kind, "name": name, **values}) + "\n")
        self._write()

    def rows(self, kind: str) -> list[Row]:
        """The rows of one kind, the latest of each name, in the order in which they came first."""
        latest = {row["name"]: row for row in self._all() if row["kind"] == kind}
        return list(latest.values())

    def names(self, kind: str) -> set[str]:
        """The names of the rows of one kind."""
        return {row["name"] for row in self.rows(kind)}

    def _all(self) -> list[Row]:
        if not self._lines.exists():
            return []
        found = []
        for line in self._lines.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:  # cut off while it was written
                continue
        return found

    def _write(self) -> None:
        kinds = ("machine", "test", "speed", "training")
        results = {kind: self.rows(kind) for kind in kinds}
        _replace(self.folder / "results.json", json.dumps(results, indent=1) + "\n")
        _replace(self.folder / "results.md", markdown(results))


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)
