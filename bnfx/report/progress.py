"""Progress of long tasks, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress(total: int, lines: bool = True) -> Iterator[Callable[[str], None]]:
    """Yield a function that moves a bar; call it ``total`` times, with what is done next.

    Args:
        total: number of steps.
        lines: whether each step is a line where stderr is not a terminal; otherwise nothing is
            written there.
    """
    console = Console(file=sys.stderr, highlight=False)  # whatever it is redirected to later
    if not console.is_terminal:
        steps = iter(range(1, total + 1))

        def tell_line(what: str) -> None:
            if lines:
                console.print(f"[{next(steps)}/{total}] {what}", markup=False)

        yield tell_line
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        begun = iter([False] + [True] * (total - 1))

        def tell(what: str) -> None:
            bar.update(task, advance=next(begun), description=what)

        yield tell
