"""Where these tests run: on CUDA, or wherever ``BNFX_DEVICE`` says (``cpu``, to try them)."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture
def device() -> str:
    named = os.environ.get("BNFX_DEVICE", "cuda")
    if named == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    return named


@pytest.fixture
def cuda(device: str) -> str:
    """For what only CUDA has."""
    if device != "cuda":
        pytest.skip("only CUDA has it")
    return device
