"""Fine-tune with BatchNorms in evaluation: the fold is in the graph, and gradients flow through."""

from __future__ import annotations

import copy

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
model(torch.randn(16, 3, 16, 16))
model.eval()  # its running statistics stay as they are
twin = copy.deepcopy(model)

# inner="aot_eager" spares this example a minute of code generation.
compiled = torch.compile(model, backend="bnfx", options={"inner": "aot_eager"})
images, wanted = torch.randn(4, 3, 16, 16), torch.randn(4, 4, 12, 12)
for run, parameters in ((compiled, model.parameters()), (twin, twin.parameters())):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(5):
        loss = (run(images) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss after 5 steps: {loss.item():.6f}")

for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
print("the same weights as without bnfx")
