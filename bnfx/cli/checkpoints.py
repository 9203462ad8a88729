"""Weights from files, whose code is never run."""

from __future__ import annotations

import textwrap
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


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict, alone or under the key ``"state_dict"`` of a checkpoint.

    A prefix that DistributedDataParallel or torch.compile gave every key is left out.

    Raises:
        SourceError: one line on what is wrong, and the way out.
    """
    check_file(path)
    state = _read_state(path)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise SourceError(f"{path} holds no state dict; save model.state_dict()")
    if wrong := [key for key in state if not isinstance(key, str)]:
        raise SourceError(
            f"{path} has the key {shown(wrong[0])}, which is not a name; save model.state_dict()"
        )
    for prefix in ("module.", "_orig_mod."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    for name, own in model.state_dict().items():
        if name in state and state[name].is_complex() and not own.is_complex():
            raise SourceError(
                f"{path} has complex values for {name}, which is real; their imaginary parts "
                "would be lost"
            )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise SourceError(f"{path} does not fit {type(model).__name__}: {first}") from None


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
