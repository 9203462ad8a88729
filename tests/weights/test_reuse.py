"""Identities and addresses come back, and memory is put aside and restored: nothing stale."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from recorded import Recorded
from support import randomise, relative
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from bnfx.weights.changes.snapshot import MAX_READS, Snapshot


def two_convolutions() -> nn.Sequential:
    """The second has no BatchNorm: its bias stays what it is."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return randomise(nn.Sequential(*layers)).eval().requires_grad_(False)


def assert_right(recorded: Recorded) -> None:
    with torch.no_grad():
        assert relative(recorded.call(), recorded.model(recorded.x)) < 1e-5


def test_a_new_parameter_with_the_identity_memory_and_version_of_an_old_one() -> None:
    """As where a loop that prunes wraps the same memory in a parameter again and again."""
    model = nn.Sequential(nn.Conv2d(32, 64, 3, bias=False), nn.BatchNorm2d(64))
    randomise(model).eval().requires_grad_(False)
    compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    x, versions, written = torch.randn(1, 32, 5, 5), dict[int, int](), 0
    with torch.no_grad():
        for _ in range(30):
            assert relative(compiled(x), model(x)) < 1e-5
            versions[id(model[0].weight)] = model[0].weight._version
            memory = model[0].weight.data
            for _ in range(100):  # until one comes back, if any does
                model[0].weight = nn.Parameter(memory, requires_grad=False)
                if id(model[0].weight) in versions:
                    break
            for _ in range(versions.get(id(model[0].weight), 1)):
                written += 45
                model[0].weight.view(-1)[written].add_(3.0)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("weights", ["live", "frozen"])
@pytest.mark.parametrize("which", range(1, MAX_READS + 1))
def test_memory_that_is_put_aside_while_it_is_read_and_restored(
    monkeypatch: pytest.MonkeyPatch, weights: str, which: int
) -> None:
    """As moving averages do, here in another thread, in the middle of any of the reads."""
    model = two_convolutions()
    recorded = Recorded(model, torch.randn(2, 3, 8, 8), {"weights": weights})
    own = {parameter: parameter.data for parameter in model.parameters()}
    original, reads = Snapshot.with_copies, 0

    def during(tensors: Any, *check: Any) -> Any:
        nonlocal reads
        reads += 1
        taken = original(tensors, *check)
        if reads < which:
            model[0].weight.mul_(1.0)  # so that it is read again
        elif reads == which:
            for parameter, memory in own.items():
                parameter.data = 2.0 * memory
        return taken

    model[0].weight.mul_(1.5)
    model[3].bias.mul_(1.1)
    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "with_copies", during)
        recorded.call()
    assert reads >= which
    for parameter, memory in own.items():
        parameter.data = memory
    assert_right(recorded)


def test_a_part_that_is_written_while_it_is_read() -> None:
    """Past autograd, so that only content shows it, and missing what is compared at each call."""
    model = nn.Sequential(nn.Conv2d(32, 64, 3, bias=False), nn.BatchNorm2d(64))
    randomise(model).eval().requires_grad_(False)
    recorded = Recorded(model, torch.randn(2, 32, 5, 5), {"inner": "eager"})
    original = Snapshot.with_copies

    def during(tensors: Any, *check: Any) -> Any:
        taken = original(tensors, *check)
        model[0].weight.data.view(-1)[1] += 5.0
        return taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Snapshot, "with_copies", during)
        model[1].weight.mul_(1.5)
        recorded.call()
    assert_right(recorded)


@pytest.mark.slow
def test_memory_of_the_dead_is_given_back() -> None:
    """At the next full garbage collection."""
    x, kept = torch.randn(2, 3, 8, 8), two_convolutions()

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = model(x)
        return answer

    compiled = torch.compile(forward, backend="bnfx", options={"inner": "eager"})
    with torch.no_grad():
        compiled(kept, x)
        for _ in range(3):
            model = two_convolutions()
            compiled(model, x)
            gone = weakref.ref(model[0].weight)
            memory = StorageWeakRef(model[0].weight.untyped_storage())
            del model
            gc.collect()
            gc.collect()  # what it held: the first one looked while the model was just gone
            assert gone() is None
            assert memory.expired()
            assert relative(compiled(kept, x), kept(x)) < 1e-5


@pytest.mark.parametrize("inner", ["eager", "openvino"])
def test_memory_of_a_dead_model_is_given_back(inner: str) -> None:
    """Though Dynamo keeps what it compiled."""
    if inner != "eager":
        pytest.importorskip(inner)
    model, x = two_convolutions(), torch.randn(2, 3, 8, 8)
    compiled = torch.compile(model, backend="bnfx", options={"inner": inner})
    with torch.no_grad():
        compiled(x), compiled(x)
    gone = weakref.ref(model[0].weight)
    memory = StorageWeakRef(model[0].weight.untyped_storage())
    del model, compiled
    gc.collect()
    gc.collect()
    assert gone() is None
    assert memory.expired()
