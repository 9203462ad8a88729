"""Memory that runs out in a fold, a disk that is full, and very many threads."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from processes import run
from support import DRAWS, randomise
from torch import nn

CHILD = str(Path(__file__).with_name("limited.py"))


def test_memory_that_runs_out(tmp_path: Path) -> None:
    """One error that names memory, the model as it was, and the next fold is right."""
    status, printed = run([CHILD, "memory"], tmp_path, 120)
    assert status == 0, printed
    assert "raised" in printed
    assert "memory" in printed.lower(), printed


@pytest.mark.parametrize(
    "name", ["report.json", pytest.param("report.html", marks=DRAWS), "report.txt"]
)
def test_a_full_disk(name: str, tmp_path: Path) -> None:
    """A warning, the right answer, and what was there before."""
    old = tmp_path / name
    old.write_text("old")
    status, printed = run([CHILD, "disk", str(old)], tmp_path, 120)
    assert status == 0, printed
    assert "report could not" in printed
    assert old.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {name, "printed"}, "a part of a file"


THREADS = 200


def test_two_hundred_threads() -> None:
    """Each answer is that of one of two states, while they take turns."""
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).eval()
    model.requires_grad_(False)
    x = torch.randn(1, 3, 6, 6)
    compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    states = [torch.full((4,), value) for value in (0.9, -1.1)]
    expected = []
    with torch.no_grad():
        for state in states:
            model[1].weight.copy_(state)
            expected.append(model(x))
            compiled(x)
    wrong: list[str] = []
    go = threading.Barrier(THREADS + 1)

    def call() -> None:
        go.wait()
        with torch.no_grad():
            for _ in range(3):
                try:
                    answer = compiled(x)
                except Exception as error:
                    wrong.append(repr(error))
                    return
                if not any(torch.allclose(answer, each, atol=1e-5) for each in expected):
                    wrong.append("an answer of neither state")

    threads = [threading.Thread(target=call) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    go.wait()
    with torch.no_grad():
        for turn in range(40):
            model[1].weight.copy_(states[turn % 2])
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    assert wrong == []
    with torch.no_grad():
        assert torch.allclose(compiled(x), model(x), atol=1e-5)
