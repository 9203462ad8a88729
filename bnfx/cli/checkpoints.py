"""Weights from files, whose code is never run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnfx.archives.pickled_tensors import read_pickled
from bnfx.archives.refused import RefusedError, shown
from bnfx.errors import SourceError


def check_file(path: Path) -> None:
    """Raise if there is no such file."""
    if not path.is_file():
        raise SourceError(f"{path} is not a file")


# Under which training scripts keep a state dict beside an epoch, an optimizer, ...
_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")


@dataclass(frozen=True)
class WeightsFile:
    """Where a state dict is.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote.
        key: of the checkpoint that holds it; one of the usual ones if ``None``.
    """

    path: Path
    key: str | None = None


def load_weights(model: nn.Module, weights: WeightsFile) -> None:
    """Load a state dict, alone or under a key of a checkpoint.

    A prefix that DistributedDataParallel or torch.compile gave every key is left out.

    Raises:
        SourceError: one line on what is wrong, and the way out.
    """
    path = weights.path
    check_file(path)
    state = _state_dict(_read_state(path), path, weights.key)
    if wrong := [key for key in state if not isinstance(key, str)]:
        raise SourceError(
            f"{path} has the key {shown(wrong[0])}, which is not a name; save model.state_dict()"
        )
    for prefix in ("module.", "_orig_mod."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    if empty := [name for name, value in state.items() if value.is_meta]:
        raise SourceError(
            f"{path} has no numbers for {_named(empty)}, which lay on the meta device when they "
            "were saved; save the state dict of a model that has its weights"
        )
    for name, own in model.state_dict().items():
        if name in state and state[name].is_complex() and not own.is_complex():
            raise SourceError(
                f"{path} has complex values for {name}, which is real; their imaginary parts "
                "would be lost"
            )
    try:
        misfits = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        first = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise SourceError(f"{path} does not fit {type(model).__name__}: {first}") from None
    lists = {
        "it lacks": misfits.missing_keys,
        "the model does not have": misfits.unexpected_keys,
    }
    why = "; ".join(f"{verb} {_named(names)}" for verb, names in lists.items() if names)
    if why:
        hint = _prefix(list(state), list(model.state_dict()))
        raise SourceError(f"{path} does not fit {type(model).__name__}: {why}{hint}")


def _prefix(held: Sequence[str], wanted: Sequence[str]) -> str:
    """What is in front of each name of a file, if the rest would fit."""
    prefix = held[0].removesuffix(wanted[0]) if held and wanted else ""
    if prefix and {f"{prefix}{name}" for name in wanted} <= set(held):
        part = prefix.rstrip(".")
        return (
            f"; without {prefix!r} in front of each name it would fit: save the state dict of "
            f"that part, model.{part}.state_dict()"
        )
    return ""


def _state_dict(found: Any, path: Path, key: str | None) -> dict[str, torch.Tensor]:
    """The state dict of a checkpoint."""
    if _is_state_dict(found) and key is None:
        return found  # type: ignore[no-any-return]
    entries = found if isinstance(found, dict) else {}
    if key is not None and not _is_state_dict(entries.get(key)):
        raise SourceError(f"{path} has no state dict under {shown(key)}{_keys_of(entries)}")
    usual = [each for each in _KEYS if _is_state_dict(entries.get(each))]
    if key is None and len(usual) != 1:
        several = sum(map(_is_state_dict, entries.values())) > 1
        held = "several state dicts" if several else "no state dict under a usual key"
        raise SourceError(f"{path} holds {held}{_keys_of(entries)}")
    return entries[key or usual[0]]  # type: ignore[no-any-return]


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(each, torch.Tensor) for each in value.values())
    )


def _keys_of(entries: dict[Any, Any]) -> str:
    """The way out: keys under which there is one, or to save another file."""
    keys = [shown(each) for each, value in entries.items() if _is_state_dict(value)]
    if keys:
        return f"; --weights-key takes one of {', '.join(keys)}"
    kinds = ", ".join(shown(each) for each in list(entries)[:6])
    return f"{f' (its keys are {kinds})' if kinds else ''}; save model.state_dict()"


def _named(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _read_state(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with path.open("rb") as file:
            return read_pickled(file)
    except (RefusedError, OSError, MemoryError) as error:
        raise SourceError(
            f"{path} is not a checkpoint, or is cut off: {error}; save model.state_dict()"
        ) from None


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load
    except ImportError:
        raise SourceError("safetensors is not installed: pip install safetensors") from None
    try:
        # Read, not mapped: a file that another process cuts off would end this one.
        return load(path.read_bytes())
    except Exception as error:  # of Rust, of torch, and KeyError for a dtype that torch lacks
        why = textwrap.shorten(f"{type(error).__name__}: {error}", 120, placeholder=" ...")
        raise SourceError(f"{path} is not a safetensors file, or is cut off: {why}") from None
