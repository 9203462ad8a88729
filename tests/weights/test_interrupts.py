"""An interrupt or an error at any step of a refresh leaves the next call right."""

from __future__ import annotations

import contextlib
import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from recorded import Recorded, small
from support import relative
from torch.utils._python_dispatch import TorchDispatchMode

import bnfx.weights
from bnfx.inner import locks
from bnfx.passes.fx.lowering import recipe
from bnfx.weights.changes.snapshot import Snapshot

FILES = (bnfx.weights.__path__[0], locks.__file__, recipe.__file__)


class AtStep:
    """Raises at one step of what runs while it is on; else counts steps."""

    def __init__(self, step: int, error: type[BaseException]) -> None:
        self.left = step
        self.error = error

    def take(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error("injected")


@contextmanager
def at_line(step: AtStep, opcodes: bool) -> Iterator[None]:
    """A step is a line, or an instruction, of the code that looks, folds and publishes."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(FILES):
            return None
        frame.f_trace_opcodes = opcodes
        if event == ("opcode" if opcodes else "line"):
            step.take()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


class AtOp(TorchDispatchMode):
    """A step is an op of torch."""

    def __init__(self, step: AtStep) -> None:
        super().__init__()
        self.step = step

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.step.take()
        return func(*args, **(kwargs or {}))


INJECTIONS: dict[str, Callable[[AtStep], Any]] = {
    "line": lambda step: at_line(step, opcodes=False),
    "instruction": lambda step: at_line(step, opcodes=True),
    "op": AtOp,
}


def write(recorded: Recorded, factor: float) -> None:
    """Past all signs but content, so that it can be undone without a trace."""
    for at in (1, 4):
        recorded.model[at].weight.data.mul_(factor)


def assert_right(recorded: Recorded, where: str) -> None:
    with torch.no_grad():
        error = relative(recorded.call(), recorded.model(recorded.x))
    assert error < 1e-5, f"{where}: {error}"


def inject(recorded: Recorded, kind: str, error: type[BaseException], stride: int) -> int:
    """At each ``stride``-th step, until a refresh takes fewer. Returns about how many there were.

    An odd stride, so that writes are undone after one half of the steps; each error has its own.
    """
    first = 1 if error is KeyboardInterrupt else 1 + stride // 2
    for number in itertools.count(first, stride):
        write(recorded, 4.0)
        step = AtStep(number, error)
        with contextlib.suppress(error), INJECTIONS[kind](step):
            recorded.call()
        if number % 2:
            write(recorded, 0.25)  # undone: the old state holds again
            assert_right(recorded, f"step {number}, undone")
        else:
            assert_right(recorded, f"step {number}")
            write(recorded, 0.25)
        assert_right(recorded, f"step {number}, later")
        if step.left > 0:
            return number - 1
    raise AssertionError


@pytest.mark.one_in(3)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize(
    ("kind", "inner", "stride"),
    [
        ("line", "eager", 9),
        ("op", "eager", 3),
        ("line", "inductor", 45),
        pytest.param("line", "eager", 1, marks=pytest.mark.heavy),
        pytest.param("op", "eager", 1, marks=pytest.mark.heavy),
        pytest.param("line", "inductor", 1, marks=pytest.mark.heavy),
        pytest.param("instruction", "eager", 1, marks=pytest.mark.heavy),
        pytest.param("instruction", "inductor", 1, marks=pytest.mark.heavy),
    ],
)
def test_at_each_step(kind: str, inner: str, stride: int, error: type[BaseException]) -> None:
    recorded = Recorded(small(), torch.randn(2, 3, 8, 8), {"inner": inner, "weights": "live"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an error in a fold is a warning, and the original graph
        steps = inject(recorded, kind, error, stride)
    print(f"{error.__name__} at each {stride}. of {steps} {kind}s, {inner}: 0 wrong answers")
    assert steps > 20


def test_in_a_late_compilation() -> None:
    interrupted: list[int] = []

    def inner(graph: torch.fx.GraphModule, example_inputs: Any) -> Any:
        interrupted.append(1)
        if len(interrupted) in (2, 3):
            raise KeyboardInterrupt
        return graph.forward

    recorded = Recorded(small(), torch.randn(2, 3, 8, 8), {"inner": inner})
    recorded.model[1].running_var[0] = -1.0
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            recorded.call()
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(
                recorded.call(), recorded.model(recorded.x), equal_nan=True, rtol=1e-4, atol=1e-4
            )
    recorded.model[1].running_var[0] = 1.0
    assert_right(recorded, "afterwards")
    assert len(interrupted) == 4


def test_a_write_that_is_undone_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread, say: the numbers that were folded are the ones that are vouched for."""
    recorded = Recorded(small(), torch.randn(2, 3, 8, 8), {"inner": "eager"})
    original = Snapshot.with_copies

    def during(tensors: Any, *check: Any) -> Any:
        write(recorded, 4.0)
        try:
            return original(tensors, *check)
        finally:
            write(recorded, 0.25)

    recorded.model[0].weight.mul_(1.5)
    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "with_copies", during)
        recorded.call()  # of the write that is under way all the time
    for _ in range(2):
        assert_right(recorded, "afterwards")
