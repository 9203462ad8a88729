"""Import a PyTorch model into TVM, fold it, build it for the CPU, export it, and run it.

pip install 'bnfx[tvm]' torchvision
python examples/tvm_relax_cpu.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torchvision
import tvm
from tvm import relax

import bnfx.tvm
from bnfx.tvm.inspection import launches
from bnfx.tvm.relax import Runner

torch.manual_seed(0)
model = torchvision.models.resnet18(weights=None).eval()
x = torch.randn(1, 3, 64, 64)

module = bnfx.tvm.from_torch(model, x)
executable = bnfx.tvm.build(module, "llvm", report=print)
target = tvm.target.Target("llvm")
default = tvm.compile(module, target, relax_pipeline=relax.get_default_pipeline(target))
print(f"kernels that run: {launches(default).total()} without bnfx", end=", ")
print(f"{launches(executable).total()} with it")

with tempfile.TemporaryDirectory() as folder:
    library = str(Path(folder) / "resnet18.so")
    executable.export_library(library)
    (ours,) = Runner(tvm.runtime.load_module(library))(x)

with torch.no_grad():
    difference = (ours - model(x)).abs().max() / model(x).abs().max()
print(f"relative difference to torch: {float(difference):.1e}")
assert difference < 1e-5
