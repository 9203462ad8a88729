"""What ``torch.save`` wrote: tensors, numbers, texts, and lists and dictionaries of them."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch

from bnfx.archives.pickle_machine import Global, run_pickle
from bnfx.archives.refused import RefusedError, shown
from bnfx.archives.stored_zip import BoundedFile, StoredZip, root_of
from bnfx.archives.strided import strided

_PICKLE = 64 << 20
_MAGIC = 0x1950A86A20F9469CFC6C  # of the form before torch 1.6
_PROTOCOL = 1001
_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
}


@dataclass(eq=False)
class _Storage:
    """The bytes of some tensors, and of which dtype the pickle says they are."""

    data: torch.UntypedStorage
    dtype: torch.dtype | None
    filled: bool = field(default=True)


def read_pickled(file: BinaryIO) -> Any:
    """What ``torch.save`` wrote into ``file``, on the CPU; what was on ``meta`` is there.

    Raises:
        RefusedError: for pickled code, anything but tensors and plain data, and damaged files.
    """
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    return _read_zip(file) if head == b"PK\3\4" else _read_old(file)


def _read_zip(file: BinaryIO) -> Any:
    archive = StoredZip(file)
    root = root_of(archive.entries)
    names = {name.removeprefix(root) for name in archive.entries}
    known = {"data.pkl", "version", "byteorder", ".format_version", ".storage_alignment"}
    for name in names - known:
        if not name.startswith(("data/", ".data/")):
            raise RefusedError(f"its entry {shown(name)} belongs to no saved tensors")
    if "byteorder" in names and archive.read(f"{root}byteorder", 16) != b"little":
        raise RefusedError("its numbers are big-endian")
    storages: dict[str, torch.UntypedStorage] = {}

    def persistent(name: Any) -> _Storage:
        dtype, key, _, count = _persistent(name)
        if key not in storages:
            storages[key] = read_storage(archive, f"{root}data/{key}")
        return _sized(storages[key], dtype, count)

    pickled = archive.read(f"{root}data.pkl", _PICKLE)
    return run_pickle(io.BytesIO(pickled), _KNOWN, persistent)


def read_storage(archive: StoredZip, name: str) -> torch.UntypedStorage:
    """The bytes of an entry, as the memory of a tensor."""
    data = torch.empty(archive.entry(name).size, dtype=torch.uint8)
    archive.read_into(name, data.numpy())
    return data.untyped_storage()


def _persistent(name: Any) -> tuple[torch.dtype | None, str, str, int]:
    if not (isinstance(name, tuple) and len(name) in (5, 6) and name[0] == "storage"):
        raise RefusedError(f"its pickle names {shown(name)}, which is not the memory of a tensor")
    _, kind, key, location, count = name[:5]
    if len(name) == 6 and name[5] is not None:
        raise RefusedError("its pickle shares memory in a way of torch before 0.4")
    good = isinstance(kind, _Kind) and isinstance(key, str) and key.isdecimal()
    if not good or not isinstance(location, str) or type(count) is not int or count < 0:
        raise RefusedError(f"its pickle names {shown(name)}, which is not the memory of a tensor")
    return kind.dtype, key, location, count


def _sized(data: torch.UntypedStorage, dtype: torch.dtype | None, count: int) -> _Storage:
    if count * (dtype.itemsize if dtype else 1) > data.nbytes():
        raise RefusedError("one of its tensors is longer than its bytes")
    return _Storage(data, dtype)


def _read_old(file: BinaryIO) -> Any:
    """The form before torch 1.6: five pickles, then the bytes of each storage."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    pickles = BoundedFile(file)
    if run_pickle(pickles, {}, None) != _MAGIC or run_pickle(pickles, {}, None) != _PROTOCOL:
        raise RefusedError("it is not a file of torch.save")
    system = run_pickle(pickles, {}, None)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise RefusedError("its numbers are big-endian")
    storages: dict[str, _Storage] = {}
    left = size

    def persistent(name: Any) -> _Storage:
        nonlocal left
        dtype, key, _, count = _persistent(name)
        if key not in storages:
            left -= count * (dtype.itemsize if dtype else 1)
            if left < 0:
                raise RefusedError("one of its tensors is longer than its bytes")
            memory = torch.empty(count, dtype=dtype or torch.uint8).untyped_storage()
            storages[key] = _Storage(memory, dtype, filled=False)
        return _sized(storages[key].data, dtype, count)

    value = run_pickle(pickles, _KNOWN, persistent)
    keys = run_pickle(pickles, {}, None)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise RefusedError("it is not a file of torch.save")
    for key in keys:
        storage = storages.get(key)
        if storage is None or storage.filled:
            raise RefusedError("it has the bytes of no tensor")
        _fill(file, storage)
    if not all(storage.filled for storage in storages.values()):
        raise RefusedError("it is cut off")
    return value


def _fill(file: BinaryIO, storage: _Storage) -> None:
    count = int.from_bytes(file.read(8), "little")
    data = torch.empty(0, dtype=torch.uint8).set_(storage.data)
    if count * (storage.dtype.itemsize if storage.dtype else 1) != len(data):
        raise RefusedError("one of its tensors is longer than its bytes")
    if file.readinto(data.numpy()) != len(data):  # type: ignore[attr-defined]
        raise RefusedError("it is cut off")
    storage.filled = True


@dataclass(frozen=True)
class _Kind:
    """A class of storages; one of no dtype holds bytes."""

    dtype: torch.dtype | None


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> torch.Tensor:
    """``_rebuild_tensor``, and ``_v2`` with (requires_grad, hooks[, metadata]) behind."""
    if not isinstance(storage, _Storage) or storage.dtype is None or any(rest[1:]):
        raise RefusedError("one of its tensors is of a kind that is not allowed")
    return _strided(storage, storage.dtype, offset, size, stride, rest[:1] == (True,))


def _tensor_of_bytes(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> torch.Tensor:
    """``_rebuild_tensor_v3``: of a dtype that has no class of storages."""
    if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype) or hooks:
        raise RefusedError("one of its tensors is of a kind that is not allowed")
    return _strided(storage, dtype, offset, size, stride, grad is True)


def _strided(
    storage: _Storage, dtype: torch.dtype, offset: Any, size: Any, stride: Any, grad: bool
) -> torch.Tensor:
    tensor = strided(storage.data, dtype, offset, size, stride)
    differentiable = dtype.is_floating_point or dtype.is_complex
    return tensor.requires_grad_(grad and differentiable)


def _parameter(data: Any, grad: Any, *_: Any) -> torch.nn.Parameter:
    """``_rebuild_parameter``; hooks and attributes are left out."""
    if type(data) is not torch.Tensor:
        raise RefusedError("one of its parameters is not a tensor")
    differentiable = data.is_floating_point() or data.is_complex()
    return torch.nn.Parameter(data.detach(), requires_grad=grad is True and differentiable)


def _without_numbers(dtype: Any, size: Any, *_: Any) -> torch.Tensor:
    """``_rebuild_meta_tensor_no_storage``: the caller has to look for these."""
    sizes = _size(size)
    odd = any(not 0 <= each < 2**31 for each in sizes)
    # torch raises where it cannot count the bytes
    if not isinstance(dtype, torch.dtype) or odd or math.prod(sizes) >= 2**48:
        raise RefusedError("one of its tensors is of a kind that is not allowed")
    return torch.empty(sizes, dtype=dtype, device="meta")


def _size(sizes: Any) -> torch.Size:
    # A copy, so it is short: a pickle may ask for many.
    if not isinstance(sizes, tuple) or len(sizes) > 64 or not all(type(n) is int for n in sizes):
        raise RefusedError("it has a size that is not one")
    return torch.Size(sizes)


def _device(kind: Any, *_: Any) -> str:
    return str(kind)[:20]


def _ordered(*arguments: Any) -> dict[Any, Any]:
    if arguments:
        raise RefusedError("its pickle copies a dictionary")
    return {}


_KNOWN: dict[str, Any] = {
    "collections OrderedDict": Global(_ordered),
    "torch._utils _rebuild_tensor": Global(_tensor),
    "torch._utils _rebuild_tensor_v2": Global(_tensor),
    "torch._utils _rebuild_tensor_v3": Global(_tensor_of_bytes),
    "torch._utils _rebuild_parameter": Global(_parameter),
    "torch._utils _rebuild_parameter_with_state": Global(_parameter),
    "torch._utils _rebuild_meta_tensor_no_storage": Global(_without_numbers),
    "torch Size": Global(_size),
    "torch device": Global(_device),
    "torch.storage UntypedStorage": _Kind(None),
    **{f"torch {name}Storage": _Kind(dtype) for name, dtype in _DTYPES.items()},
    **{
        f"torch {name}": dtype
        for name, dtype in vars(torch).items()
        if isinstance(dtype, torch.dtype)
    },
}
