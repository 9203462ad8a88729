"""What a process that starts later finds compiled, and that its weights are its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from support import randomise, relative
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache

WORKER = Path(__file__).with_name("warm_worker.py")


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    return randomise(nn.Sequential(*layers), seed).eval()


@pytest.mark.heavy
def test_artifacts_go_from_one_process_to_another() -> None:
    """As a second process would: caches are empty, and the checkpoint is another one."""
    x = torch.randn(2, 3, 12, 12)
    options = {"weights": "live"}
    with torch.no_grad():
        with fresh_cache():
            first = net(0)
            assert (
                relative(torch.compile(first, backend="bnfx", options=options)(x), first(x)) < 1e-5
            )
            saved = torch.compiler.save_cache_artifacts()
        torch._dynamo.reset()
        assert saved is not None
        with fresh_cache():
            torch.compiler.load_cache_artifacts(saved[0])
            counters.clear()
            second = net(1)
            compiled = torch.compile(second, backend="bnfx", options=options)
            assert relative(compiled(x), second(x)) < 1e-5
            assert counters["aot_autograd"]["autograd_cache_hit"] == 1
            assert counters["aot_autograd"]["autograd_cache_miss"] == 0
            second.load_state_dict(first.state_dict())
            assert relative(compiled(x), first(x)) < 1e-5
            second[1].running_mean.add_(1)
            assert relative(compiled(x), second(x)) < 1e-5


@pytest.mark.heavy
def test_a_process_that_starts_later(tmp_path: Path) -> None:
    """It traces nothing, answers with its own weights, and follows them as the first one did."""
    found = [_worker(seed, tmp_path) for seed in (0, 1)]
    for each in found:
        assert each["form"].startswith("inputs, packed"), each
        assert each["nan"]
        assert max(each["errors"].values()) < 2e-5, each
    assert [each["hits"] for each in found] == [0, 1]
    assert found[1]["misses"] == found[0]["misses"] - 1, "forms for NaN are compiled late"


def _worker(seed: int, folder: Path) -> Any:
    words = [str(WORKER), str(seed)]
    done = processes.run_apart(words, folder, TORCHINDUCTOR_CACHE_DIR=str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
