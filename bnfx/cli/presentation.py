"""How a report is shown, and into which files it goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bnfx.errors import SourceError
from bnfx.extras import page_packages_missing
from bnfx.report import Report
from bnfx.report.model_explorer import graphs_json, node_data_json, node_data_path


@dataclass(frozen=True)
class Presentation:
    """How a report is shown.

    Args:
        as_json: as JSON in place of text.
        every: a row for each BatchNorm and affine op.
        html: also as a page, in this file.
        model_explorer: also as graphs for Model Explorer, in this file and one beside it.
    """

    as_json: bool = False
    every: bool = False
    html: Path | None = None
    model_explorer: Path | None = None

    def check(self) -> None:
        """Raise :class:`SourceError` unless all of it can be written."""
        if self.html is not None:
            check_output(self.html, (".html",))
            if (missing := page_packages_missing()) is not None:
                raise SourceError(missing)
        if self.model_explorer is not None:
            check_output(self.model_explorer, (".json",))

    def files(self, report: Report, source: str) -> Iterator[tuple[Path, str]]:
        """Files to write, and what goes into them."""
        title = f"bnfx: {source}"
        if self.html is not None:
            yield self.html, report.to_html(title=title)
        if self.model_explorer is not None:
            yield self.model_explorer, graphs_json(report.graphs, title)
            yield node_data_path(self.model_explorer), node_data_json(report.graphs)


def check_output(output: Path, suffixes: Sequence[str]) -> None:
    """Raise :class:`SourceError` unless a file can be written there."""
    if output.suffix not in suffixes:
        raise SourceError(f"{output} must end in {' or '.join(suffixes)}")
    if not output.absolute().parent.is_dir():
        raise SourceError(f"the folder of {output} does not exist; make it first")
    if output.is_dir():
        raise SourceError(f"{output} is a folder")
