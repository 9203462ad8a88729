"""The suites of AIMET, coremltools, Glow, onnxscript and pnnx, replayed."""

from __future__ import annotations

from collections import Counter

import pytest
from peers.cases_others import CASES
from peers.cases_pytorch import Replayed
from peers.test_pytorch import replay


def test_each_suite_is_there() -> None:
    assert Counter(case.suite for case in CASES) == {
        "onnxscript _fuse_batchnorm_test": 10,
        "AIMET test_bn_fold": 13,
        "coremltools conv-batchnorm": 30,
        "coremltools conv-scale": 112,
        "pnnx fuse_*_batchnorm": 7,
        "Glow GraphOptz": 18,
    }
    assert len({(case.suite, case.name) for case in CASES}) == len(CASES)


def _marked() -> list[object]:
    """Each 19th of a suite is in the fast one."""
    seen: Counter[str] = Counter()
    found = []
    for case in CASES:
        marks = () if seen[case.suite] % 19 == 0 else pytest.mark.heavy
        seen[case.suite] += 1
        found.append(pytest.param(case, id=f"{case.suite}-{case.name}", marks=marks))
    return found


@pytest.mark.parametrize("case", _marked())
def test_replayed(case: Replayed) -> None:
    replay(case)
