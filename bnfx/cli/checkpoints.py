"""Weights by the name of a file, of which no code is run."""

from __future__ import annotations

import pickle
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnfx.errors import SourceError


def check_file(path: Path) -> None:
    if not path.is_file():
        raise SourceError(f"{path} is no file")


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
    for prefix in ("module.", "_orig_mod."):
        if state and all(str(key).startswith(prefix) for key in state):
            state = {str(key).removeprefix(prefix): value for key, value in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = textwrap.shorten(str(error), 200, placeholder=" ...")
        raise SourceError(f"{path} does not fit {type(model).__name__}: {first}") from None


def _read_state(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError:
            raise SourceError("safetensors is not installed: pip install safetensors") from None
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise SourceError(f"{path} is no safetensors file, or cut off: {error}") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise SourceError(
            f"{path} holds pickled code, which is not run, or is no checkpoint; save "
            "model.state_dict() alone"
        ) from None
    except Exception as error:
        why = textwrap.shorten(f"{type(error).__name__}: {error}", 120, placeholder=" ...")
        raise SourceError(
            f"{path} is no checkpoint, or cut off ({why}); save model.state_dict()"
        ) from None
