"""Compile a torchvision model with its BatchNorms folded, then change its weights."""

import torch
import torchvision

model = torchvision.models.resnet18().eval()
compiled = torch.compile(model, backend="bnfx")
image = torch.randn(1, 3, 224, 224)

with torch.no_grad():
    error = (compiled(image) - model(image)).abs().max() / model(image).abs().max()
    print(f"relative error against eager: {error:.1e}")

    model.bn1.running_mean.add_(0.5)  # the next call answers with the new statistics
    error = (compiled(image) - model(image)).abs().max() / model(image).abs().max()
    print(f"after writing to a running mean: {error:.1e}")

assert error < 1e-4
