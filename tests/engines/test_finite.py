"""Whether inputs are finite: C++ answers what Python does, wherever the number is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bnfx.inner.engines.finite import in_python
from bnfx.native import loader


@pytest.fixture(scope="module")
def native() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNFX_NATIVE", "1")
        loader.forget()
        loader.check_type()
        assert loader.state().module is not None, loader.state().sentence
        yield loader.state().module
        loader.forget()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100])
def test_one_number_anywhere(native: Any, dtype: torch.dtype, count: int) -> None:
    value = torch.randn(count, dtype=dtype)
    assert native.sum_is_finite(value) is True
    assert in_python(value) is True
    for bad in (float("inf"), -float("inf"), float("nan")):
        for at in range(count):
            spoiled = value.clone()
            spoiled[at] = bad
            assert native.sum_is_finite(spoiled) is False
            assert in_python(spoiled) is False


def test_memory_in_other_orders(native: Any) -> None:
    for value in (
        torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last),
        torch.randn(3, 4).t(),
        torch.nn.Parameter(torch.randn(7)),
        torch.randn(8, 9)[2],
    ):
        assert native.sum_is_finite(value) is True
        value.detach()[..., 1] = float("nan")
        assert native.sum_is_finite(value) is False


def test_only_what_is_seen_counts(native: Any) -> None:
    whole = torch.full((6, 6), float("nan"))
    whole[:, :3] = 1
    assert native.sum_is_finite(whole[:, :3]) is None
    assert in_python(whole[:, :3]) is True


def test_the_rest_is_left_to_python(native: Any) -> None:
    class Own(torch.Tensor):
        pass

    others = (
        torch.randn(4).half(),
        torch.arange(4),
        torch.randn(4).expand(3, 4),
        torch._neg_view(torch.randn(4)),
        torch.randn(2, 2, dtype=torch.complex64),
        torch.randn(2, 2).to_sparse(),
        torch.randn(4, device="meta"),
    )
    for value in others:
        assert native.sum_is_finite(value) is None
    assert native.sum_is_finite(torch.randn(4).as_subclass(Own)) in (None, True)
    with pytest.raises(TypeError, match="not a tensor"):
        native.sum_is_finite([1.0])


def test_huge_numbers_are_left_to_pytorch(native: Any) -> None:
    value = torch.full((64,), 3e38)
    assert native.sum_is_finite(value) is False
    assert in_python(value) is False
