"""Merge the training branches of a RepVGG into plain convolutions, by arithmetic on its graph."""

import timm
import torch

import bnfx

model = timm.create_model("repvgg_a0").eval()
x = torch.randn(1, 3, 64, 64)
folded = bnfx.fold(model, x, keep="graph")

with torch.no_grad():
    error = (folded(x) - model(x)).abs().max() / model(x).abs().max()
before = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
after = len(folded.graph.find_nodes(op="call_function", target=torch.conv2d))
print(bnfx.explain(model, x).rewrites)
print(f"{before} convolutions -> {after}; relative error {error:.1e}")
