"""Build a PyTorch model for a CUDA GPU, on a machine that need not have one.

    pip install 'bnfx[tvm]'
    python examples/tvm_relax_cuda.py

Generates the source, counts its kernels, compiles it by nvcc where that is installed, and exports a
library. Where there is a GPU, it runs there, too.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
import tvm
from torch import nn

import bnfx.tvm
from bnfx.tvm.inspection import cubin, cuda_kernels, cuda_source
from bnfx.tvm.relax import Runner

ARCH = "sm_90"  # the GPU that it is built for

torch.manual_seed(0)
model = nn.Sequential(
    nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False),
    nn.BatchNorm2d(3),
    nn.Tanh(),
).eval()
x = torch.randn(1, 32, 8, 8)

target = tvm.target.Target({"kind": "cuda", "arch": ARCH})
module = bnfx.tvm.from_torch(model, x)
default = tvm.compile(module, target)
executable = bnfx.tvm.build(module, "cuda", arch=ARCH, report=print)

before, after = (len(cuda_kernels(cuda_source(built))) for built in (default, executable))
print(f"kernels: {before} without bnfx, {after} with it")
assert after < before

if shutil.which("nvcc"):
    print(f"cubin for {ARCH}: {len(cubin(executable, target))} bytes")
with tempfile.TemporaryDirectory() as folder:
    library = Path(folder) / "decoder.so"
    executable.export_library(str(library))
    print(f"library: {library.stat().st_size} bytes")

if tvm.cuda(0).exist:
    here = bnfx.tvm.build(module, "cuda")  # for this machine's GPU
    (ours,) = Runner(here, tvm.cuda(0))(x.numpy())
    with torch.no_grad():
        print(f"largest difference to torch: {(torch.from_numpy(ours) - model(x)).abs().max():.1e}")
else:
    print("there is no CUDA device here, so it was not run")
