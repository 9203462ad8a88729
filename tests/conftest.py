from __future__ import annotations

import gc
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

# The suite runs as one process a core: more threads would only wait for one another, and each
# process that compiles would start workers that import torch once more.
for _variable in ("OMP_NUM_THREADS", "TVM_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
    os.environ.setdefault(_variable, "1")


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``one_in(n)``: all but each n-th of a test's cases are slow."""
    seen: Counter[str] = Counter()
    for item in items:
        thinned = item.get_closest_marker("one_in")
        if thinned and not item.get_closest_marker("heavy"):
            name = item.nodeid.partition("[")[0]
            if seen[name] % thinned.args[0]:
                item.add_marker("slow")
            seen[name] += 1


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection, which walks all of it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    if "torch._dynamo" in sys.modules:
        _skip_the_timing_of_guards()
        _write_no_structured_trace()


def _skip_the_timing_of_guards() -> None:
    """Dynamo flushes the processor's caches after each compile (25 ms), to log how long its
    guards take.
    """
    from torch._dynamo import guards

    assert callable(guards.profile_guard_manager)
    guards.profile_guard_manager = lambda *_: 0.0


def _write_no_structured_trace() -> None:
    """PyTorch writes its structured trace, each graph as text, wherever that logger has a handler;
    pytest gives it four.
    """
    from torch._logging._internal import trace_log

    add = trace_log.addHandler

    def add_unless_pytests(handler: logging.Handler) -> None:
        if not any(base.__module__.startswith("_pytest") for base in type(handler).__mro__):
            add(handler)

    trace_log.addHandler = add_unless_pytests  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _modes_are_left_as_they_were() -> Iterator[None]:
    """A test that leaves gradients off, say, breaks others, as chance orders them: so it fails."""
    if "torch" not in sys.modules:
        yield
        return
    from bnfx.folding.global_state import state_kept

    with state_kept() as changed:
        yield
    modes = [each for each in changed if not each.startswith("draws")]
    if modes:
        pytest.fail(f"the test {modes[0]} for those after it")


@pytest.fixture(autouse=True)
def _native_check_is_looked_for() -> Iterator[None]:
    """That there is no compiler is settled for a process, but not by a test that hides it."""
    yield
    loader = sys.modules.get("bnfx.native.loader")
    if loader is not None and loader.state().final and loader.state().module is None:
        loader.forget()


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
