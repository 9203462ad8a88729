"""These tests run in an environment of their own: `make test-relay`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _has_relay() -> bool:
    """Whether this environment's TVM is one with Relay; nothing is imported."""
    spec = find_spec("tvm")
    return spec is not None and (Path(str(spec.origin)).parent / "relay").is_dir()


if _has_relay():
    sys.path.insert(0, str(HERE))
else:
    collect_ignore_glob = ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    # TVM's own: its Python and its ONNX are newer than it
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")
