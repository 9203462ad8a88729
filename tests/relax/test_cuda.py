"""CUDA without a GPU: source, kernels, cubin by nvcc, a library. What needs a GPU is marked so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import tvm
from relax.models import decoder, randomised, vision
from torch import nn

import bnfx.tvm
from bnfx.errors import BuildError
from bnfx.tvm.inspection import cubin, cuda_kernels, cuda_source, launches
from bnfx.tvm.relax import Runner

ARCH = "sm_90"
TARGET = tvm.target.Target({"kind": "cuda", "arch": ARCH})
HAS_GPU = bool(tvm.cuda(0).exist)

# The model, its input; kernels and launches, by TVM's default and folded (docs/tvm_relax.md).
MODELS = [
    pytest.param(decoder, (1, 32, 8, 8), (5, 3), (5, 3), id="decoder"),
    pytest.param(
        lambda: vision("resnet18"),
        (1, 3, 64, 64),
        (27, 19),
        (40, 23),
        id="resnet18",
        marks=pytest.mark.heavy,
    ),
    pytest.param(
        lambda: vision("mobilenet_v2"),
        (1, 3, 64, 64),
        (57, 33),
        (106, 54),
        id="mobilenet_v2",
        marks=pytest.mark.heavy,
    ),
]
MODEL = pytest.mark.parametrize(("make", "shape", "kernels", "runs"), MODELS)


@pytest.mark.slow
@MODEL
def test_cuda_is_generated_compiled_and_exported(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    kernels: tuple[int, int],
    runs: tuple[int, int],
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    model, x = randomised(make()), torch.randn(*shape)
    module = bnfx.tvm.from_torch(model, x)
    default = tvm.compile(module, TARGET)
    folded = bnfx.tvm.build(module, "cuda", arch=ARCH)
    both = (default, folded)
    assert tuple(len(cuda_kernels(cuda_source(built))) for built in both) == kernels
    assert tuple(launches(built).total() for built in both) == runs
    assert "batch_norm" not in " ".join(cuda_kernels(cuda_source(folded)))

    library = tmp_path / "model.so"
    folded.export_library(str(library))
    assert library.stat().st_size > 0
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc to compile the source with")
    binary = cubin(folded, TARGET)
    assert binary[:4] == b"\x7fELF"


@pytest.mark.skipif(HAS_GPU, reason="it is about machines without a GPU")
def test_without_a_gpu_the_architecture_must_be_named() -> None:
    module = bnfx.tvm.from_torch(randomised(decoder()), torch.randn(1, 32, 8, 8))
    with pytest.raises(BuildError, match='arch="sm_90"'):
        bnfx.tvm.build(module, "cuda")


@pytest.mark.one_in(2)
@pytest.mark.parametrize("arch", ["sm_70", "sm_80"])
def test_the_architecture_is_the_one_that_was_named(arch: str) -> None:
    module = bnfx.tvm.from_torch(randomised(decoder()), torch.randn(1, 32, 8, 8))
    seen: list[Any] = []

    @tvm.ir.instrument.pass_instrument
    class Watch:
        def run_before_pass(self, mod: Any, info: Any) -> None:
            seen.append(tvm.target.Target.current(allow_none=True))

    with tvm.transform.PassContext(instruments=[Watch()]):
        bnfx.tvm.build(module, "cuda", arch=arch)
    assert arch in {str(target.attrs["arch"]) for target in seen if target is not None}


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="there is no CUDA device here")
@MODEL
def test_the_answer_on_a_gpu_is_torch(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    kernels: tuple[int, int],
    runs: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    model, x = randomised(make()), torch.randn(*shape)
    with torch.no_grad():
        expected = model(x)
    executable = bnfx.tvm.build(bnfx.tvm.from_torch(model, x), "cuda")  # this machine's arch
    (ours,) = Runner(executable, tvm.cuda(0))(x.numpy())
    error = (torch.from_numpy(ours) - expected).abs().max() / expected.abs().max()
    assert float(error) < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="there is no CUDA device here")
@torch.no_grad()
def test_tvm_is_the_inner_compiler_on_a_gpu() -> None:
    model = randomised(vision("resnet18")).cuda()
    x = torch.randn(1, 3, 64, 64, device="cuda")
    options = {"inner": "tvm", "inner_options": {"target": "cuda"}}
    ours = torch.compile(model, backend="bnfx", options=options)(x)
    error = (ours - model(x)).abs().max() / model(x).abs().max()
    assert float(error) < 1e-5
