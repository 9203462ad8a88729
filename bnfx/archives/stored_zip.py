"""Zip archives as torch writes them: nothing is compressed, so none is larger than its file."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

from bnfx.archives.refused import RefusedError, shown

_DIRECTORY = 8 << 20  # bytes of a central directory; a name with its fields takes about 100
_READ = 64 << 20  # bytes that a pickle outside of an archive may take at once
_NAME = re.compile(r"[\w.+@:,=~ -]+(/[\w.+@:,=~ -]+)*", re.ASCII)
_FLAGS = 0x0808  # sizes stand behind the data; names are UTF-8
_BROKEN = (ValueError, NotImplementedError, OSError, struct.error)  # of zipfile
_LOCAL = struct.Struct("<4s5H3I2H")


@dataclass(frozen=True)
class StoredEntry:
    """Where the bytes of a name lie."""

    offset: int
    size: int
    crc: int


class BoundedFile:
    """A file of which no more than ``limit`` bytes are read at once."""

    def __init__(self, file: BinaryIO, limit: int = _READ) -> None:
        self._file = file
        self._limit = limit
        self.seek, self.tell, self.readinto = file.seek, file.tell, file.readinto  # type: ignore[attr-defined]

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._limit + 1 if size < 0 else min(size, self._limit + 1))
        if len(data) > self._limit:
            raise RefusedError("its table of contents, or its pickle, is too long")
        return data

    def readline(self) -> bytes:
        return self._file.readline(1 << 16)

    def seekable(self) -> bool:
        return True


class StoredZip:
    """The entries of an archive: plain files, stored, each in a place of its own.

    Args:
        file: stays open, and is read once for each entry that is asked for.

    Raises:
        RefusedError: for anything else.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        try:
            # No __del__ of ZipFile's touches a file that was handed to it open.
            archive = zipfile.ZipFile(BoundedFile(file, _DIRECTORY))
            infos: list[zipfile.ZipInfo] = archive.infolist()
            end: int = archive.start_dir
        except RefusedError:
            raise
        except (zipfile.BadZipFile, *_BROKEN) as error:
            raise RefusedError(
                f"it is not a zip archive, or is cut off ({_first(error)})"
            ) from None
        self.entries: dict[str, StoredEntry] = {}
        taken = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            _check(info)
            if info.filename in self.entries:
                raise RefusedError(f"two of its entries are named {shown(info.filename)}")
            entry = self._locate(info) if taken <= info.header_offset < end else None
            if entry is None or entry.offset + entry.size > end:
                raise RefusedError(
                    f"its entry {shown(info.filename)} overlaps another, or lies outside"
                )
            taken = entry.offset + entry.size
            self.entries[info.filename] = entry

    def _locate(self, info: zipfile.ZipInfo) -> StoredEntry:
        self._file.seek(info.header_offset)
        head = self._file.read(_LOCAL.size)
        if len(head) < _LOCAL.size:
            raise RefusedError(f"its entry {shown(info.filename)} is cut off")
        magic, _, flags, method, *_, name_length, extra_length = _LOCAL.unpack(head)
        name = self._file.read(name_length)
        if magic != b"PK\3\4" or method or flags & ~_FLAGS or name != info.filename.encode():
            raise RefusedError(f"its entry {shown(info.filename)} has a head of another")
        start = info.header_offset + _LOCAL.size + name_length + extra_length
        return StoredEntry(start, info.file_size, info.CRC)

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of an entry.

        Raises:
            RefusedError: if there is none, it is longer than ``limit``, or it is damaged.
        """
        entry = self.entry(name)
        if entry.size > limit:
            raise RefusedError(f"its entry {shown(name)} is too long")
        buffer = bytearray(entry.size)
        self.read_into(name, buffer)
        return bytes(buffer)

    def entry(self, name: str) -> StoredEntry:
        """Where ``name`` is."""
        try:
            return self.entries[name]
        except KeyError:
            raise RefusedError(f"it has no entry {shown(name)}") from None

    def read_into(self, name: str, buffer: Any) -> None:
        """Fill ``buffer``, bytes as long as the entry, and check what was read."""
        entry = self.entries[name]
        buffer = memoryview(buffer)
        self._file.seek(entry.offset)
        done = 0
        while done < entry.size:
            got = self._file.readinto(buffer[done:])  # type: ignore[attr-defined]
            if not got:
                raise RefusedError(f"its entry {shown(name)} is cut off")
            done += got
        if zlib.crc32(buffer) != entry.crc:
            raise RefusedError(f"its entry {shown(name)} is damaged")


def _check(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    steps = name.split("/")
    if not _NAME.fullmatch(name) or "." in steps or ".." in steps or len(name) > 400:
        raise RefusedError(f"its entry {shown(name)} has a name that is not allowed")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise RefusedError(f"its entry {shown(name)} is compressed, which torch never does")
    if info.flag_bits & ~_FLAGS:
        raise RefusedError(f"its entry {shown(name)} is encrypted, or of an unknown kind")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise RefusedError(f"its entry {shown(name)} is not a plain file")


def root_of(names: Iterable[str]) -> str:
    """The folder that all names share, with its slash.

    Raises:
        RefusedError: if there is none.
    """
    roots = {name.partition("/")[0] if "/" in name else "" for name in names}
    if len(roots) != 1 or "" in roots:
        raise RefusedError("its entries are not in one folder")
    return f"{roots.pop()}/"


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:80]
