from __future__ import annotations

import pytest
from neutral import Model


@pytest.fixture
def model() -> Model:
    return Model()
