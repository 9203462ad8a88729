from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from direct_models import Scaled, check, compiled, count_direct, image

from bnfx.direct import direct_calls


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Native code is waited for, and shortcuts are made as often as can be."""
    monkeypatch.setenv("BNFX_NATIVE", "1")
    monkeypatch.setattr(direct_calls, "SHARE", float("inf"))
    limits = {"recompile_limit": 500, "accumulated_recompile_limit": 5000}
    # A number that changed once would be an input of the graph from then on.
    with torch._dynamo.config.patch(**limits, automatic_dynamic_shapes=False):
        yield


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each call that goes straight to its graph."""
    return count_direct(monkeypatch)


@pytest.fixture
def model() -> Any:
    """One whose answer depends on more than tensors."""
    return Scaled().eval()


@pytest.fixture
def call(model: Any) -> Iterator[Any]:
    """``model`` as ``bnfx.compile`` gives it, called once."""
    with torch.no_grad():
        found = compiled(model)
        check(found, model, image())
        yield found
