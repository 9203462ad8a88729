"""The check in C++ answers what Python's does, and where it can't be built, Python's serves."""

from __future__ import annotations

import functools
import logging
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import randomise, relative
from test_staleness import WRITES, check_write, make
from torch import nn
from writes import CHEAP, DEAR, Net, everything

from bnfx.native import cxx, loader
from bnfx.weights.changes.snapshot import Snapshot

SEQUENCES = 150
STEPS = 5


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The class ``Check``, built if need be."""
    monkeypatch.setenv("BNFX_NATIVE", "1")
    loader.forget()
    kind = loader.check_type()
    assert kind is not None, loader.state().sentence
    yield kind
    loader.forget()


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Nothing built yet; builds are waited for."""
    monkeypatch.setenv("BNFX_NATIVE", "1")
    monkeypatch.setenv("BNFX_CACHE_DIR", str(tmp_path))
    loader.forget()
    yield tmp_path / "native"
    loader.forget()


def in_python(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(loader, "check_type", lambda: None)
        return work()


def both(
    tensors: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[torch.Tensor]], bool]:
    """A snapshot of each kind; says whether they hold, after it saw that they agree."""
    ours, theirs = Snapshot(tensors), Snapshot(tensors)
    assert ours.holds(tensors)
    assert ours._native is not None

    def hold(now: list[torch.Tensor]) -> bool:
        expected = in_python(monkeypatch, lambda: theirs.holds(now))
        assert theirs._native is None
        assert ours.holds(now) is expected
        return expected

    return hold


def test_it_agrees_with_python(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After anything that the staleness sequences do to a model."""
    seen = {True: 0, False: 0}
    steps = [*CHEAP, *DEAR, lambda model, rng: None]
    for seed in range(SEQUENCES):
        rng, model = random.Random(seed), Net(seed)
        hold = both(everything(model), monkeypatch)
        for _ in range(STEPS):
            rng.choice(steps)(model, rng)
            try:
                holds = hold(everything(model))
            except AssertionError as error:
                raise AssertionError(f"seed {seed}") from error
            seen[holds] += 1
            if not holds:
                hold = both(everything(model), monkeypatch)
    assert min(seen.values()) > 100, seen


def views(kind: str) -> torch.Tensor:
    base = torch.randn(4, 40, 8, 8)
    return {
        "contiguous": lambda: base,
        "small": lambda: base[0, 0].clone(),
        "empty": lambda: torch.empty(0, 3),
        "scalar": lambda: torch.tensor(1.5),
        "channels last": lambda: base.to(memory_format=torch.channels_last),
        "with gaps": lambda: base[:, ::2, 1:],
        "an offset": lambda: base[1:],
        "half": lambda: base.half(),
        "bytes": lambda: base.to(torch.uint8),
        "complex": lambda: base.to(torch.complex64),
        "float8": lambda: base.to(torch.float8_e4m3fn),
        "double": lambda: base.double(),
    }[kind]()


KINDS = ("contiguous", "small", "empty", "scalar", "channels last", "with gaps", "an offset")
DTYPES = ("half", "bytes", "complex", "float8", "double")


@pytest.mark.parametrize("kind", [*KINDS, *DTYPES])
def test_layouts_and_dtypes(kind: str, native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, other = views(kind), torch.ones(5)
    hold = both([other, tensor], monkeypatch)
    assert hold([other, tensor])
    assert not hold([tensor, other])
    assert not hold([other])
    tensor.data.fill_(2.0)
    assert hold([other, tensor]) is (tensor.numel() == 0)
    hold = both([other, tensor], monkeypatch)
    tensor.data = tensor.detach().clone()
    assert hold([other, tensor]) is (tensor.numel() == 0)


def test_each_byte_of_a_small_tensor(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.uint8, torch.float16, torch.float32, torch.float64):
        tensor = torch.zeros(67, dtype=dtype)
        hold = both([torch.ones(3), tensor], monkeypatch)
        first = [torch.ones(3), tensor]
        hold = both(first, monkeypatch)
        content = tensor.numpy().view("uint8")
        for at in range(content.size):
            content[at] = 1
            assert not hold(first), (dtype, at)
            content[at] = 0
            assert hold(first)


def test_each_element_of_a_sample(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly those that Python compares of a large tensor show."""
    for dtype in (torch.uint8, torch.float16, torch.float32, torch.float64):
        tensor = torch.zeros(5003, dtype=dtype)
        hold = both([tensor], monkeypatch)
        content, shown = tensor.numpy(), 0
        for at in range(tensor.numel()):
            content[at] = 1
            shown += not hold([tensor])
            content[at] = 0
        assert shown == 128


def test_swapped_and_resized(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = nn.Parameter(torch.ones(6))
    hold = both([tensor], monkeypatch)
    torch.utils.swap_tensors(tensor, nn.Parameter(torch.ones(6)))
    assert not hold([tensor])
    tensor = nn.Parameter(torch.ones(6))
    hold = both([tensor], monkeypatch)
    tensor.untyped_storage().resize_(0)
    assert not hold([tensor])


def test_inference_tensors(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        small, large = torch.ones(5), torch.ones(5000)
        tensors = [torch.ones(3), small, large]
        for tensor, at in ((small, 3), (large, 4321)):
            hold = both(tensors, monkeypatch)
            assert hold(tensors)
            tensor[at] = 2.0
            assert not hold(tensors)


def test_what_it_is_given_is_checked(native: Any) -> None:
    tensor = torch.ones(3)
    address = tensor.data_ptr()
    for signs, pieces, held in (
        ([], [], b""),
        ([(address, 0)], [(address, 3, 4, 4)], b"too few"),
        ([(address, 0)], [(address, 3, 3, 3)], b"*********"),
        ([(address, 0)], [], b"too many"),
    ):
        with pytest.raises(ValueError, match=r"tensor|bytes"):
            native((tensor,), signs, pieces, held)
    with pytest.raises(TypeError):
        native((1,), [(0, 0)], [], b"")
    with pytest.raises(TypeError):
        native((tensor,), [(address, 0)], [], b"").is_of(tensor)


@pytest.mark.parametrize("kind", ["native", "python"])
def test_writes_are_seen(kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "native":
        request.getfixturevalue("native")
    else:
        request.getfixturevalue("monkeypatch").setenv("BNFX_NATIVE", "0")
        loader.forget()

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x)

    compiled = torch.compile(forward, backend="bnfx", options={"inner": "eager"})
    with torch.no_grad():
        for at, write in enumerate(WRITES):
            model = make(at)
            check_write(functools.partial(compiled, model), model, write)
    assert (loader.state().module is not None) is (kind == "native")
    loader.forget()


def test_it_is_taken_when_it_is_there(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that Python watched goes on with what it saw."""
    tensors = [torch.ones(5), torch.randn(5000)]
    snapshot = Snapshot(tensors)
    assert in_python(monkeypatch, lambda: snapshot.holds(tensors))
    tensors[1].data.mul_(2.0)
    assert not snapshot.holds(tensors)
    assert snapshot._native is not None


def answers(expected: str) -> None:
    """The model does, by Python's check, and the state says why."""
    model, x = randomise(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))).eval(), torch.ones(1)
    compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    x = torch.randn(1, 1, 2, 2)
    with torch.no_grad():
        for _ in range(2):
            assert relative(compiled(x), model(x)) < 1e-5
            model[1].running_var.data.mul_(1.5)
    assert expected in loader.state().sentence
    assert loader.check_type() is None


def test_no_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    answers("install g++")


def test_a_build_that_fails(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "false")
    with caplog.at_level(logging.INFO, "bnfx"):
        answers("the build failed")
    assert "native check: the build failed" in caplog.text
    assert [path.suffix for path in fresh.iterdir()] == [".log"], "nothing else is left"
    monkeypatch.delenv("CXX")
    loader.forget()
    answers("delete it to try again")  # and no process of today builds it in vain again


def test_a_library_that_does_not_load(fresh: Path) -> None:
    library = cxx.cached_library()
    library.write_bytes(b"nonsense")
    answers(library.name)
    assert not library.exists(), "the next process builds it anew"


def test_a_folder_that_others_write_to(fresh: Path) -> None:
    fresh.mkdir()
    fresh.chmod(0o777)
    answers("can be written to by others")


def test_a_cache_that_cannot_be_written_to(fresh: Path) -> None:
    fresh.write_text("a file where the folder should be")
    answers("exists")


def test_it_can_be_switched_off(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNFX_NATIVE", "0")
    answers("BNFX_NATIVE=0")
    assert not fresh.exists()


@pytest.mark.parametrize("awaited", [False, True])
def test_a_build_yields_unless_awaited(
    awaited: bool, fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """``nice`` alone says nothing to other sessions, and a build has one of its own."""
    if not Path("/proc/self/autogroup").exists():
        pytest.skip("this kernel shares its time among processes alone")
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\ncat /proc/self/autogroup\nnice\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(compiler))
    library = cxx.cached_library()
    process = cxx.start(library, awaited)
    assert process is not None
    assert process.wait() == 1
    group, nice, *_ = cxx.log_of(library).read_text().splitlines()
    assert group.endswith(" nice 10") != awaited
    assert nice == (str(os.nice(0)) if awaited else "19")


def test_no_call_waits(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A compiler that takes its time; what comes of it is loaded by whoever asks later."""
    monkeypatch.delenv("BNFX_NATIVE")
    gate = tmp_path / "gate"
    slow = tmp_path / "compiler"
    slow.write_text(f"#!/bin/sh\nwhile [ ! -e {gate} ]; do sleep 0.05; done\nexit 1\n")
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(slow))
    assert loader.check_type() is None
    assert loader.state().sentence == "being built"
    assert cxx.start(cxx.cached_library()) is None, "one builds"
    gate.touch()
    for _ in range(600):
        if loader.state().final:
            break
        time.sleep(0.05)
    assert "the build failed" in loader.state().sentence
