"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import shutil
import signal
import socket
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO


@contextlib.contextmanager
def whole(path: Path, suffix: str | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces ``path`` if nothing is raised.

    A symbolic link stays one, and what it points to is replaced. A device, a pipe or a folder is
    not replaced. What a killed process left in the folder is removed.

    Args:
        path: the file to replace, in a folder that exists.
        suffix: the suffix of the temporary path, where the writer insists on one.

    Raises:
        OSError: if the disk is full or cannot be written to; the old file is then still whole.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if target.exists() and not target.is_file():
        raise OSError(errno.EEXIST, "it is there, and is not a plain file", str(path))
    _remove_abandoned(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=_prefix(os.getpid())) as folder:
        temporary = Path(folder) / (target.with_suffix(suffix) if suffix else target).name
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # a full disk may be known only here
        os.replace(temporary, target)


@contextlib.contextmanager
def whole_stream(path: Path) -> Iterator[BinaryIO]:
    """Yield a file for writers in C++, which would end the process when the disk is full.

    The file accepts everything that is written; an error or an interrupt is raised at the end.
    Otherwise it is like :func:`whole`.

    Raises:
        OSError: as for :func:`whole`.
    """
    with whole(path) as temporary, temporary.open("wb", buffering=0) as file:
        stream = _Patient(file)
        with _interrupts_kept():
            yield stream  # type: ignore[misc]
        if stream.failure is not None:
            raise stream.failure


class _Patient(io.RawIOBase):
    """A file that keeps its first failure for later, and from then on accepts all calls.

    It does so even once it is closed: a writer in C++ may live on in a traceback, and write its end
    only then.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._at = 0
        self.failure: BaseException | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while self.failure is None and len(rest):
                rest = rest[self._file.write(rest) :]
        except Exception as error:
            self.failure = error
        self._at += size
        return size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            self._at = self._file.seek(offset, whence)
        except Exception as error:
            self.failure = self.failure or error
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True


_CALLED_FROM_C = frozenset(
    method.__code__
    for method in (
        _Patient.write,
        _Patient.seek,
        _Patient.tell,
        _Patient.seekable,
        _Patient.writable,
    )
)


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Keep an interrupt for later if it would be raised into a writer in C++."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # no interrupt is raised here
        return
    try:
        signal.signal(signal.SIGINT, functools.partial(_interrupted, before))
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupted(
    handler: Callable[[int, FrameType | None], Any], number: int, frame: FrameType | None
) -> None:
    """Keep an interrupt in the stream that is being called, if one is; otherwise raise it.

    The stream is found in the frames, not in the handler's closure: an interrupt may have prevented
    an older handler from being restored.
    """
    frames = (each for each, _ in traceback.walk_stack(frame))
    stream = next((each.f_locals["self"] for each in frames if each.f_code in _CALLED_FROM_C), None)
    try:
        handler(number, frame)
    except BaseException as error:
        if stream is None:
            raise
        stream.failure = stream.failure or error


def _prefix(process: int | str) -> str:
    """The prefix of temporary folders: the host and process that write there."""
    return f".bnfx-{socket.gethostname()}-{process}-"


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary folders of this host's processes that no longer run."""
    for left in folder.glob(f"{_prefix('*')}*"):
        number = left.name.split("-")[-2]
        if left.is_symlink() or not number.isdecimal() or _runs(int(number)):
            continue
        shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    if os.name != "posix":
        return True  # there, signal 0 ends a process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
