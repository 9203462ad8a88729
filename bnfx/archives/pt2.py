"""Exported programs from files, without running anything of the file's choice.

``torch.export.load`` unpickles, evaluates, imports and loads libraries as an archive says. Here
every entry is read once, checked, and what was checked is handed to torch's deserialiser as values:
JSON that was written again, and tensors. No byte of the archive itself reaches torch.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import torch
from torch.export import ExportedProgram

from bnfx.archives.pickled_tensors import read_pickled, read_storage
from bnfx.archives.program_schema import checked_payloads, checked_program
from bnfx.archives.refused import RefusedError, shown, words
from bnfx.archives.stored_zip import StoredZip, root_of
from bnfx.archives.strided import strided
from bnfx.archives.tree_text import is_key

_JSON = 64 << 20
_MARKS = 4_000_000  # of JSON's values, each of which takes about a hundred bytes in memory
_OLD = frozenset(f"serialized_{name}" for name in ("exported_program.json", "state_dict.pt"))
_OLD_FILES = _OLD | {"version", "serialized_constants.pt", "serialized_example_inputs.pt"}
_FILES = words(
    "archive_format archive_version byteorder version .data/version .data/serialization_id "
    "models/model.json data/sample_inputs/model.pt data/weights/model_weights_config.json "
    "data/constants/model_constants_config.json data/weights/model.pt data/constants/model.pt "
    ".format_version .storage_alignment"
)
_INPUTS = 100_000
_PACKAGE = "data/aotinductor/"
_DTYPES = {  # numbers of torch's schema
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    9: torch.complex32,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
    28: torch.uint16,
    29: torch.float8_e4m3fn,
    30: torch.float8_e5m2,
    31: torch.float8_e4m3fnuz,
    32: torch.float8_e5m2fnuz,
    33: torch.float8_e8m0fnu,
    34: torch.uint32,
    35: torch.uint64,
}


class PackageError(RefusedError):
    """The archive is a compiled package, which holds a shared library."""


def load_program(file: BinaryIO) -> ExportedProgram:
    """What ``torch.export.save`` wrote.

    Raises:
        PackageError: for a package of AOTInductor.
        RefusedError: for anything that is not on the lists of this folder, and for damaged files.
    """
    archive = StoredZip(file)
    old = archive.entries.keys() >= _OLD
    parts = _old_parts(archive) if old else _parts(archive)
    program, weights, constants, inputs = parts
    return _deserialised(program, weights, constants, inputs)


_Parts = tuple[dict[str, Any], dict[str, Any], dict[str, Any], Any]


def _parts(archive: StoredZip) -> _Parts:
    root = root_of(archive.entries)
    for entry in archive.entries:
        name = entry.removeprefix(root)
        if name.startswith(_PACKAGE):
            raise PackageError("it is a package of AOTInductor, which holds compiled code")
        folder, _, last = name.rpartition("/")
        numbered = (folder, last.rstrip("0123456789")) in (
            ("data/weights", "weight_"),
            ("data/constants", "tensor_"),
        )
        if name not in _FILES and not numbered and not name.startswith("extra/"):
            raise RefusedError(f"its entry {shown(name)} is not one of an exported program")
    if archive.read(f"{root}archive_format", 16) != b"pt2":
        raise RefusedError("its format is not pt2")
    if archive.read(f"{root}archive_version", 16) != b"0":
        raise RefusedError("its version is not one that bnfx knows")
    if f"{root}byteorder" in archive.entries and archive.read(f"{root}byteorder", 16) != b"little":
        raise RefusedError("its numbers are big-endian")
    program = checked_program(_json(archive, f"{root}models/model.json"))
    weights = _payloads(archive, f"{root}data/weights/", "weights")
    constants = _payloads(archive, f"{root}data/constants/", "constants")
    inputs = _inputs(archive, f"{root}data/sample_inputs/model.pt")
    return program, weights, constants, inputs


def _old_parts(archive: StoredZip) -> _Parts:
    """Of torch 2.7 and before: each part in a file of its own."""
    for name in archive.entries:
        if name not in _OLD_FILES and not name.startswith("extra_files/"):
            raise RefusedError(f"its entry {shown(name)} is not one of an exported program")
    program = checked_program(_json(archive, "serialized_exported_program.json"))
    weights = _named(archive, "serialized_state_dict.pt")
    constants = _named(archive, "serialized_constants.pt")
    return program, weights, constants, _inputs(archive, "serialized_example_inputs.pt")


def _json(archive: StoredZip, name: str) -> Any:
    text = archive.read(name, _JSON)
    if sum(map(text.count, (b"[", b"{", b",", b":"))) > _MARKS:
        raise RefusedError(f"its entry {shown(name)} has too many parts")
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError):
        raise RefusedError(f"its entry {shown(name)} is not JSON, or too deep") from None


def _payloads(archive: StoredZip, folder: str, kind: str) -> dict[str, torch.Tensor]:
    if f"{folder}model.pt" in archive.entries:  # torch 2.8
        return _named(archive, f"{folder}model.pt")
    payloads = checked_payloads(_json(archive, f"{folder}model_{kind}_config.json"))
    storages = {
        name: read_storage(archive, f"{folder}{name}")
        for name in {payload["path_name"] for payload in payloads.values()}
    }
    tensors = {
        name: _tensor(storages[payload["path_name"]], payload) for name, payload in payloads.items()
    }
    _check_total(tensors, storages)
    return tensors


def _check_total(
    tensors: Mapping[str, torch.Tensor], storages: Mapping[str, torch.UntypedStorage]
) -> None:
    """Tensors may share bytes, but not so that copies of them fill the memory."""
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    if total > 8 * sum(s.nbytes() for s in storages.values()) + (1 << 26):
        raise RefusedError("its tensors are far larger than their bytes")


def _tensor(storage: torch.UntypedStorage, payload: Mapping[str, Any]) -> torch.Tensor:
    meta = payload["tensor_meta"]
    sizes, strides = ([n.get("as_int") for n in meta[key]] for key in ("sizes", "strides"))
    offset = meta["storage_offset"].get("as_int")
    tensor = strided(storage, _DTYPES[meta["dtype"]], offset, sizes, strides)
    tensor = tensor.to(_device(meta["device"]))
    differentiable = tensor.is_floating_point() or tensor.is_complex()
    grad = meta["requires_grad"] and differentiable
    if payload["is_param"]:
        return torch.nn.Parameter(tensor, requires_grad=grad)
    return tensor


def _device(device: Mapping[str, Any]) -> torch.device:
    return (
        torch.device(device["type"], device.get("index") or 0)
        if device["type"] != "cpu"
        else (torch.device("cpu"))
    )


def _named(archive: StoredZip, name: str) -> dict[str, torch.Tensor]:
    value = _pickled(archive, name)
    if not isinstance(value, dict) or not all(
        isinstance(key, str) and isinstance(tensor, torch.Tensor) for key, tensor in value.items()
    ):
        raise RefusedError(f"its entry {shown(name)} holds more than tensors with names")
    return value


def _pickled(archive: StoredZip, name: str) -> Any:
    data = archive.read(name, archive.entry(name).size)
    return read_pickled(io.BytesIO(data)) if data else {}


def _inputs(archive: StoredZip, name: str) -> Any:
    """The example inputs; their keys are written into code."""
    value = _pickled(archive, name)
    if value in (None, {}, ()):
        return None
    pair = isinstance(value, tuple) and len(value) == 2
    if not pair or not isinstance(value[0], tuple) or not isinstance(value[1], dict):
        raise RefusedError("its example inputs are not the arguments of a call")
    _check_input(value)
    return value


def _check_input(value: Any) -> None:
    """All of it, level by level: lists that hold one another have no end, or far too many items."""
    level = [value]
    for _ in range(50):
        level = [item for each in level for item in _items(each)]
        if not level:
            return
        if len(level) > _INPUTS:
            break
    raise RefusedError("its example inputs are too many, or too deep")


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        if not all(map(is_key, value)):
            raise RefusedError("its example inputs have keys that are not plain words")
        return value.values()
    if isinstance(value, (tuple, list)):
        return value
    if isinstance(value, str):
        if not is_key(value) and value:
            raise RefusedError(f"its example input {shown(value)} is not a plain word")
    elif not isinstance(value, (torch.Tensor, bool, int, float, type(None))):
        raise RefusedError(f"its example input {shown(value)} is not a tensor or number")
    return ()


def _deserialised(
    program: dict[str, Any], weights: dict[str, Any], constants: dict[str, Any], inputs: Any
) -> ExportedProgram:
    # Private to torch, and the same from 2.6 on: torch.export.load ends here, too.
    from torch._export.serde.serialize import SerializedArtifact, deserialize

    text = json.dumps(program).encode()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return deserialize(
                SerializedArtifact(text, weights, constants, inputs or b"")  # type: ignore[arg-type]
            )
    except Exception as error:
        logging.getLogger("bnfx").debug("torch cannot build the program", exc_info=True)
        why = " ".join(str(error).split("\n")[0].split())[:100]
        raise RefusedError(f"torch cannot build it ({type(error).__name__}: {why})") from error
