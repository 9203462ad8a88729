"""Each sign of a write by itself, with the library of C++ and without; what stands for a copy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bnfx.native import loader
from bnfx.weights.changes import unmarked_writes
from bnfx.weights.changes.content import Content
from bnfx.weights.changes.snapshot import Moment, Numbers, Snapshot


@pytest.fixture(params=["python", "native"], autouse=True)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(loader, "check_type", lambda: None)


def _large() -> torch.Tensor:
    """Of which a sample is compared; its second element is not in it."""
    return torch.zeros(64, 128)


def test_a_version_shows_what_the_sample_does_not() -> None:
    tensor = _large()
    snapshot = Snapshot([tensor])
    assert snapshot.holds([tensor])
    tensor.data[0, 1] = 1.0  # which counts no version
    assert snapshot.holds([tensor])
    tensor[0, 1] = 2.0
    assert not snapshot.still_holds([tensor])


def test_what_holds() -> None:
    tensor = torch.zeros(3)
    snapshot = Snapshot([tensor])
    assert not snapshot.holds([tensor.clone()])
    assert snapshot.holds([tensor])
    tensor.add_(1)
    assert not snapshot.holds([tensor])


def test_a_sample_meets_each_column() -> None:
    """Its step has no factor in common with the size."""
    for column in range(128):
        tensor = _large()
        content = Content([tensor], everything=False)
        tensor[:, column] = 1.0
        assert not content.is_same(), column


def test_everything_is_compared_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNFX_CHECK_CONTENT", "1")
    tensor = _large()
    snapshot = Snapshot([torch.zeros(3), tensor])
    assert snapshot.still_holds(snapshot.tensors)
    tensor.data[0, 1] = 1.0
    assert not snapshot.still_holds(snapshot.tensors)


@pytest.mark.parametrize("place", [0, 2])
def test_tensors_that_count_no_versions(place: int) -> None:
    """Inference tensors among others: their content tells."""
    with torch.inference_mode():
        uncounted = _large()
    tensors = [_large(), _large()]
    tensors.insert(place, uncounted)
    for written in tensors:
        snapshot = Snapshot(tensors)
        assert snapshot.still_holds(tensors)
        with torch.inference_mode():
            written[0, 1] += 1.0
        assert not snapshot.still_holds(tensors)


def test_an_address_shows_other_memory() -> None:
    tensor = _large()
    snapshot = Snapshot([tensor])
    tensor.data = _large()
    assert snapshot.is_of([tensor])
    assert not snapshot.still_holds([tensor])


def test_content_shows_what_leaves_no_sign() -> None:
    tensor = torch.zeros(5)
    snapshot = Snapshot([tensor])
    tensor.data[3] = 1.0
    assert not snapshot.still_holds([tensor])


def test_a_mark_shows_what_an_optimizer_stepped() -> None:
    tensor, other = _large(), _large()
    snapshot = Snapshot([tensor])
    unmarked_writes.mark([other])
    assert snapshot.still_holds([tensor])
    unmarked_writes.mark([tensor])
    assert not snapshot.still_holds([tensor])


def test_a_mark_is_older_than_what_is_made_after_it() -> None:
    """What was marked before, and what is marked of others since, is no news."""
    tensor = torch.zeros(3)
    unmarked_writes.mark([tensor])
    since = unmarked_writes.epoch()
    unmarked_writes.mark([torch.zeros(3)])
    assert not unmarked_writes.written_since([tensor], since)
    unmarked_writes.mark([tensor])
    assert unmarked_writes.written_since([tensor], since)


@pytest.mark.parametrize("first", [True, False])
def test_inference_mode(first: bool) -> None:
    """A snapshot of it sees what is written outside, and the other way round."""
    tensor = _large()
    with torch.inference_mode(first):
        snapshot, (copy,) = Snapshot.with_copies([tensor])
    assert not copy.is_inference()
    with torch.inference_mode(not first):
        assert snapshot.still_holds([tensor])
    tensor[0, 1] = 2.0
    assert not snapshot.still_holds([tensor])


def test_the_same_tensors_in_the_same_order() -> None:
    one, other = torch.zeros(3), torch.zeros(3)
    snapshot = Snapshot([one, other])
    assert snapshot.is_of([one, other])
    assert snapshot.is_of((one, other))
    for tensors in ([other, one], [one], [one, one], [one, other, one]):
        assert not snapshot.is_of(tensors)
        assert not snapshot.is_like(Snapshot(tensors))
    assert snapshot.is_like(Snapshot([one, other]))


def test_a_moment_is_of_tensors_and_numbers() -> None:
    tensor = torch.zeros(3)

    def of(tensor: torch.Tensor, number: float) -> Moment:
        return Moment(Snapshot([tensor]), (number,), settled=True)

    moment, same = of(tensor, 1.0), of(tensor, 1.0)
    others = of(tensor, 2.0), of(torch.zeros(3), 1.0)
    assert moment.is_of([tensor], (1.0,))
    assert not moment.is_of([tensor], (2.0,))
    assert not moment.is_of([torch.zeros(3)], (1.0,))
    assert moment.is_like(same)
    assert not any(moment.is_like(other) for other in others)


def test_a_copy_that_was_written_to_meanwhile_is_another() -> None:
    """Content vouches for the copies: what the memory holds by now does not count."""
    for size in (5, 100):
        tensor = torch.zeros(size, size)
        assert Content([tensor], False, [tensor.clone()]).is_same()
        assert not Content([tensor], False, [tensor + 1]).is_same()


@pytest.mark.parametrize(
    ("writes", "reads", "settled"), [(0, 1, True), (2, 3, True), (3, 3, False)]
)
def test_read_until_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, writes: int, reads: int, settled: bool
) -> None:
    tensor, count, still_holds = torch.zeros(4), [0], Snapshot.still_holds

    def disturbed(self: Snapshot, tensors: Any) -> bool:
        count[0] += 1
        if count[0] <= writes:
            tensor.add_(1)
        return still_holds(self, tensors)

    monkeypatch.setattr(Snapshot, "still_holds", disturbed)
    numbers = Numbers.of(["x", tensor], [1], ())
    assert (count[0], numbers.moment.settled) == (reads, settled)
    assert numbers.args[0] == "x"
    assert numbers.args[1] is not tensor
    if settled:
        assert torch.equal(numbers.args[1], tensor)


@pytest.mark.parametrize("written", [0, 1])
def test_a_write_that_leaves_no_sign_unsettles(
    monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """To one element while others are read: the whole of each copy is compared once."""
    tensors, still_holds = [_large(), _large()], Snapshot.still_holds

    def disturbed(self: Snapshot, given: Any) -> bool:
        tensors[written].data[0, 1] += 1
        return still_holds(self, given)

    monkeypatch.setattr(Snapshot, "still_holds", disturbed)
    assert not Numbers.of(tensors, [0, 1], ()).moment.settled


def test_what_is_nothing_but_a_copy_is_the_parameter() -> None:
    """Of the same memory, dtype, shape and strides; anything else stays what it is."""
    parameter, empty = torch.arange(6.0).view(2, 3), torch.zeros(0)
    numbers = Numbers.of([parameter, empty, torch.zeros(0)], [0, 1, 2], ())
    copy = numbers.args[0]
    assert numbers.shared(copy).data_ptr() == parameter.data_ptr()
    others = [
        torch.zeros(2, 3),
        copy.view(3, 2),
        copy[:, :2],
        copy.view(torch.int32),
        copy.t(),
        torch.as_strided(copy, (2, 3), (1, 2)),
        torch.zeros(0),
        torch.eye(2).to_sparse(),
    ]
    for other in others:
        assert numbers.shared(other) is other


def test_a_parameter_with_gaps_is_no_copy() -> None:
    """Its copy is dense, so strides disagree."""
    parameter = torch.arange(12.0).view(3, 4)[:, ::2]
    numbers = Numbers.of([parameter], [0], ())
    copy = numbers.args[0]
    assert copy.stride() != parameter.stride()
    assert numbers.shared(copy) is copy
