"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path, suffix: str | None = None) -> Iterator[Path]:
    """A path to write to in the place of ``path``, which it becomes if nothing is raised.

    Args:
        path: in a folder that exists.
        suffix: of the path to write to, where the writer insists on one.
    """
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".bnfx") as folder:
        temporary = Path(folder) / (path.with_suffix(suffix) if suffix else path).name
        yield temporary
        os.replace(temporary, path)
