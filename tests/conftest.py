from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

# The suite runs as one process a core: more threads would only wait for one another, and each
# process that compiles would start workers that import torch once more.
for _variable in ("OMP_NUM_THREADS", "TVM_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
    os.environ.setdefault(_variable, "1")


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
