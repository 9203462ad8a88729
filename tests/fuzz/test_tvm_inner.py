"""Random programs compiled with TVM as the inner compiler: their answers are the eager ones.

``BNFX_FUZZ`` sets the number of programs, 500 at most; the suite runs 30.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from fuzz.tvm_graphs import Program, drawn, inputs_of
from seeds import FUZZ

from bnfx.errors import InnerWarning

pytest.importorskip("tvm")

COUNT = min(FUZZ or 30, 500)
GROUP = 10


def _memory(outputs: tuple[torch.Tensor, ...], inputs: tuple[torch.Tensor, ...]) -> list[Any]:
    """Which of all these tensors share memory, and where they start in it."""
    values = (*inputs, *outputs)
    owners: dict[int, int] = {}
    places = []
    for value in values:
        storage = value.untyped_storage().data_ptr()
        owner = owners.setdefault(storage, len(owners)) if value.numel() else -1
        shared = sum(v.untyped_storage().data_ptr() == storage for v in values) > 1
        places.append((owner, value.storage_offset() if shared else 0) if value.numel() else None)
    return places


def _compare(ours: Any, theirs: Any) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert (one.dtype, one.shape, _strides(one)) == (other.dtype, other.shape, _strides(other))
        if not other.is_floating_point():
            assert torch.equal(one, other)
            continue
        tolerance = 2e-2 if other.dtype is torch.float16 else 2e-4
        usual = other[other.isfinite()]
        scale = float(usual.abs().max()) if usual.numel() else 1.0
        near = max(tolerance * scale, 4e-6)  # inputs are of size 1, and answers may cancel
        torch.testing.assert_close(one, other, rtol=tolerance, atol=near, equal_nan=True)


def _strides(value: torch.Tensor) -> list[int]:
    """Those that tell: of dimensions of more than one place."""
    return [step for step, size in zip(value.stride(), value.shape, strict=True) if size > 1]


def _without_tvm(seed: int, batch: int) -> Any:
    """AOTAutograd changes some strides: its ``bernoulli`` of channels_last draws contiguously."""
    torch._dynamo.reset()
    compiled = torch.compile(drawn(seed), backend="aot_eager")
    torch.manual_seed(seed)
    with torch.no_grad():
        return compiled(*inputs_of(seed, batch))


def _run(seed: int, count: Counter[str]) -> None:
    program = drawn(seed)
    torch._dynamo.reset()

    def told(placement: Any) -> None:
        count["in TVM"] += sum(placement.tvm.values())
        count["in PyTorch"] += sum(placement.torch.values())
        placements.append(placement)

    placements: list[Any] = []
    # LLVM's optimisations take most of a build, and are not what is tried here.
    target = "llvm" if seed % 5 == 1 else {"kind": "llvm", "opt-level": 0}
    options = {"inner": "tvm", "inner_options": {"report": told, "target": target}}
    dynamic = seed % 5 == 0
    compiled = torch.compile(program, backend="bnfx", options=options, dynamic=dynamic or None)
    for batch in (2, 3) if dynamic else (2,):
        ours, theirs = inputs_of(seed, batch), inputs_of(seed, batch)
        torch.manual_seed(seed)
        try:
            with torch.no_grad():
                expected = program(*theirs)
        except RuntimeError:
            return  # of this size, the program is none
        torch.manual_seed(seed)
        with torch.no_grad():
            actual = compiled(*ours)
        memory = _memory(expected, theirs)
        if list(map(_strides, actual)) != list(map(_strides, expected)):
            expected = _without_tvm(seed, batch)
        _compare((*actual, *ours), (*expected, *theirs))
        assert _memory(actual, ours) == memory
        assert torch.equal(torch.rand(3), _after(program, seed, batch))
    count["differences"] += sum(len(placement.differences) for placement in placements)
    count["programs"] += 1


def _after(program: Program, seed: int, batch: int) -> torch.Tensor:
    """What the generator gives next, after the program in eager mode."""
    torch.manual_seed(seed)
    with torch.no_grad():
        program(*inputs_of(seed, batch))
    return torch.rand(3)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("first", range(0, COUNT, GROUP))
def test_programs_are_eager(first: int) -> None:
    count: Counter[str] = Counter()
    for seed in range(first, min(first + GROUP, COUNT)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InnerWarning)
            try:
                _run(seed, count)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {drawn(seed)!r}") from error
    print(dict(count))
    assert count["differences"] == 0
    assert count["programs"]
    assert count["in TVM"]
