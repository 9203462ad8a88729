"""What a process that starts later finds compiled, and that its weights are its own."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from support import randomise, relative
from torch import fx, nn
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache

from bnfx.inner.packed.pack_program import PackProgram, Step, Value

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


def traced() -> tuple[PackProgram, dict[str, torch.Tensor]]:
    """``(weight * 2 + constant, reordered for oneDNN)``, and weights of it."""
    graph = fx.Graph()
    weight, constant = graph.placeholder("weight"), graph.placeholder("constant")
    aten = torch.ops.aten
    twice = graph.call_function(aten.mul.Tensor, (weight, 2.0))
    both = graph.call_function(aten.cat.default, ([twice, constant], 0))
    plain = graph.call_function(aten.clone.default, (both,), {"memory_format": torch.channels_last})
    packet = torch.ops.mkldnn._reorder_convolution_weight
    packed = graph.call_function(packet, (plain, [1, 1], [1, 1], [1, 1], 1, [1, 3, 6, 6]))
    nodes = [weight, constant, twice, both, plain, packed]
    values = {node: Value(at) for at, node in enumerate(nodes)}
    program = PackProgram(
        weights=("weight",),
        constants=(torch.ones(2, 3, 3, 3),),
        steps=tuple(Step.of(node, values) for node in nodes[2:]),
        results=(values[both], values[packed]),
    )
    return program, {"weight": torch.randn(4, 3, 3, 3)}


def test_a_program_packs_any_numbers_after_pickling() -> None:
    program, _ = traced()
    for read in (program, pickle.loads(pickle.dumps(program))):
        _, weights = traced()
        expected = torch.cat([weights["weight"] * 2, torch.ones(2, 3, 3, 3)])
        plain, packed = read(weights)
        assert torch.equal(plain, expected)
        assert packed.layout is torch._mkldnn
        assert torch.equal(packed.to_dense(), expected)
    assert program.steps[0].op == "aten.mul.Tensor"
    assert program.steps[3].op == "mkldnn._reorder_convolution_weight"


def test_a_program_holds_what_is_read_no_longer_than_that() -> None:
    program, _ = traced()
    # The weight, after the first step; the product and the constant, after the next; the clone.
    assert [sorted(over) for over in program._over] == [[0], [1, 2], [], [4]]
