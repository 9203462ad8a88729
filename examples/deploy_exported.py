"""Fold an exported program, save it, and run it in a process that knows nothing of bnfx."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import bnfx

model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
)
model(torch.randn(8, 3, 32, 32))  # running statistics that are no identity
model.eval()

x = torch.randn(2, 3, 32, 32)
batch = torch.export.Dim("batch", min=1, max=64)
program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
folded = bnfx.fold(program)
print(len(program.state_dict), "tensors before,", len(folded.state_dict), "after")

RUN = """
import sys, torch
folder = sys.argv[1]
program = torch.export.load(f"{folder}/folded.pt2").module()
x = torch.load(f"{folder}/x.pt")
with torch.no_grad():
    torch.save(program(x), f"{folder}/y.pt")
assert "bnfx" not in sys.modules
"""

with tempfile.TemporaryDirectory() as folder:
    torch.export.save(folded, Path(folder, "folded.pt2"))
    larger = torch.randn(5, 3, 32, 32)  # the batch is open
    torch.save(larger, Path(folder, "x.pt"))
    subprocess.run([sys.executable, "-c", RUN, folder], check=True)
    answer = torch.load(Path(folder, "y.pt"))

with torch.no_grad():
    error = (answer - model(larger)).abs().max() / model(larger).abs().max()
print(f"the folded program, elsewhere: off by {error:.0e}")
assert error < 1e-5
