"""Random networks: folded and compiled answers are the eager ones, always.

``BNFX_FUZZ=5000`` sets the number of networks a test; a nightly run takes thousands. Capturing one
for ``fold`` takes four times as long as compiling it, so of those there are fewer. What fails is
made small, and printed as a program.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from fuzz import checks
from fuzz.checks import LIVE, WAYS, Setting
from fuzz.drawn import drawn_settings, examples
from fuzz.network import Network, Step
from fuzz.programs import Shape, networks
from fuzz.reproduce import check, program
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

Case = tuple[Network, Shape]
FOLDS = tuple(way for way in WAYS if way not in LIVE)


@examples(20)
@given(networks())
def test_compiled_answers_are_eagers(case: Case) -> None:
    assume(check(*case, Setting(), 0))


@pytest.mark.slow
@examples(15)
@given(networks())
def test_folded_answers_are_eagers(case: Case) -> None:
    assume(check(*case, Setting("fold to a graph"), 0))


@examples(12)
@given(networks(), drawn_settings(LIVE), st.integers(0, 9999))
def test_compiled_however_they_are_called(case: Case, setting: Setting, seed: int) -> None:
    assume(check(*case, setting, seed))


@pytest.mark.slow
@examples(12)
@given(networks(), drawn_settings(FOLDS), st.integers(0, 9999))
def test_folded_however_they_are_called(case: Case, setting: Setting, seed: int) -> None:
    assume(check(*case, setting, seed))


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_answer_is_seen(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold that is off by 1e-8 in one channel's scale fails, with a program."""
    network, run = _one_network(), WAYS[way]
    assert check(network, (2, 2, 3, 3), Setting(way), 0)

    def off(module: nn.Module, x: torch.Tensor, setting: Setting) -> object:
        module.layer1.weight.data[0] += 1e-8
        return run(module, x, setting)

    monkeypatch.setitem(checks.WAYS, way, off)
    with pytest.raises(pytest.fail.Exception, match="run this by itself"):
        check(network, (2, 2, 3, 3), Setting(way), 0)


def test_a_program_runs_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the same numbers."""
    network, setting = _one_network(), Setting(dtype=torch.float32, layout="strided")
    file = tmp_path / "program.py"
    file.write_text(program(network, (2, 2, 3, 3), setting, 1))
    theirs = runpy.run_path(str(file))["network"]
    assert capsys.readouterr().out == "right\n"
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    assert torch.equal(theirs.double().eval()(x)[0], network.module().double()(x)[0])


def _one_network() -> Network:
    norm = nn.BatchNorm2d(2).double().eval()
    return Network([Step("{layer}({0})", (0,), norm)], [1])
