from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    """Compiled code is cached by code object: without this, tests would share it."""
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(0)
    yield
    if "torch._dynamo" in sys.modules:
        import torch

        torch._dynamo.reset()
