"""What the benchmarks of compile time and of warm starts print, on a small model."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnfx.bench import compile_cost
from bnfx.bench.on_models.first_call import FirstCall, first_call

MODEL = "test_resnet.r160_in1k"  # timm's smallest with BatchNorms


@pytest.mark.heavy
def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    chosen = {"backend": "bnfx", "options": {"weights": "live"}}
    cold, warm = (first_call(MODEL, chosen, str(tmp_path)) for _ in range(2))
    assert 0 < cold.own < cold.cpu
    assert 0 < cold.inductor < cold.cpu
    assert warm.inductor < cold.inductor / 2, "no C++ is compiled"
    plain = first_call(MODEL, {"backend": "inductor"}, str(tmp_path / "plain"))
    assert plain.own == 0
    assert 0 < plain.inductor < plain.cpu


def test_medians_and_ratios() -> None:
    calls = [FirstCall(wall, 2 * wall, wall + 1, wall / 10) for wall in (4.0, 1.0, 2.0)]
    assert compile_cost.median(calls) == FirstCall(2.0, 4.0, 3.0, 0.2)
    plain, ours = FirstCall(10.0, 8.0, 4.0, 0.0), FirstCall(5.0, 6.0, 3.0, 0.1)
    cells = compile_cost.row("net", plain, ours)
    assert cells == ["net", "10.0", "5.0", "0.50", "8.0", "6.0", "0.75", "0.10", "2.5%"]
