"""Runs the small experiments of docs/batchnorm.md, and draws its figures. Takes about a minute.

    python docs/draw_figures.py

Needs the extra ``site``. Everything is seeded; figures differ by rounding from machine to machine.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from torch import nn

import bnfx

IMAGES = Path(__file__).resolve().parent / "images"
BLUE, GREY, ORANGE = "#1f5fbf", "#8a9199", "#c26a00"
CLASSES, SIDE = 8, 12


def data(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of eight kinds: smooth random templates, shifted, brightened and noisy."""
    templates = F.interpolate(
        torch.randn(CLASSES, 3, 4, 4, generator=torch.Generator().manual_seed(1)),
        SIDE,
        mode="bicubic",
    )
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=random)
    shifts = torch.randint(-2, 3, (count, 2), generator=random)
    moved = [
        torch.roll(templates[label], (int(dy), int(dx)), (1, 2))
        for label, (dy, dx) in zip(labels, shifts, strict=True)
    ]
    light = 2 * torch.rand(count, 1, 1, 1, generator=random)
    noise = 0.7 * torch.randn(count, 3, SIDE, SIDE, generator=random)
    return torch.stack(moved) + light + noise, labels


def network(with_norm: bool, depth: int = 8, width: int = 16) -> nn.Sequential:
    """A plain stack of convolutions: no skips, so that depth hurts."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for at in range(depth):
        layers.append(nn.Conv2d(3 if at == 0 else width, width, 3, padding=1, bias=not with_norm))
        layers += [nn.BatchNorm2d(width)] if with_norm else []
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def train(model: nn.Module, rate: float, steps: int = 150) -> list[float]:
    """The loss of each step, averaged over the last ten."""
    pictures, labels = data(1024, seed=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    random = torch.Generator().manual_seed(3)
    losses: list[float] = []
    for _ in range(steps):
        chosen = torch.randint(len(labels), (32,), generator=random)
        loss = F.cross_entropy(model(pictures[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return [
        sum(losses[max(0, at - 9) : at + 1]) / len(losses[max(0, at - 9) : at + 1])
        for at in range(steps)
    ]


def draw_training() -> None:
    """With and without BatchNorm at three learning rates."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), sharey=True)
    for axis, rate in zip(axes, (0.02, 0.2, 2.0), strict=True):
        for with_norm, colour in ((False, GREY), (True, BLUE)):
            label = "with BatchNorm" if with_norm else "without"
            axis.plot(train(network(with_norm), rate), color=colour, label=label)
        axis.set_title(f"learning rate {rate:g}")
        axis.set_xlabel("step")
        axis.set_ylim(0, 3)
    axes[0].set_ylabel("loss")
    axes[0].legend(frameon=False)
    save(figure, "training.svg")


def draw_statistics() -> None:
    """How far a batch's variance is from that of all data, by samples per rank."""
    model = network(with_norm=True).eval()
    with torch.no_grad():
        activations = model[:4](data(4096, seed=4)[0])  # what the second BatchNorm is given
    true = activations.var(dim=(0, 2, 3))
    counts, ranks = (1, 2, 8, 32), 8
    figure, axis = plt.subplots(figsize=(6, 3.4))
    random = torch.Generator().manual_seed(5)
    for share, colour, label in (
        (1, GREY, "each rank by itself"),
        (ranks, BLUE, f"shared over {ranks} ranks"),
    ):
        errors = []
        for count in counts:
            off = []
            for _ in range(200):
                chosen = torch.randint(len(activations), (count * share,), generator=random)
                off.append(activations[chosen].var(dim=(0, 2, 3)) / true - 1)
            errors.append(100 * float(torch.stack(off).square().mean().sqrt()))
        axis.plot(counts, errors, "o-", color=colour, label=label)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.set_yticks([2, 5, 10, 20, 40], ["2", "5", "10", "20", "40"])
    axis.minorticks_off()
    axis.set_xlabel("samples per rank")
    axis.set_ylabel("error of the variance, %")
    axis.legend(frameon=False)
    save(figure, "statistics.svg")


def draw_fold() -> None:
    """One convolution and its BatchNorm, and the convolution that stands for both."""
    torch.manual_seed(0)
    pair = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16))
    nn.init.uniform_(pair[1].weight, -2, 2)
    nn.init.uniform_(pair[1].bias, -1, 1)
    pictures, _ = data(64, seed=6)
    for _ in range(50):
        pair(pictures)
    folded = bnfx.fold(pair.eval())
    with torch.no_grad():
        expected, answer = pair(pictures), folded(pictures)
        before, after = (m[0].weight.detach().flatten(1) for m in (pair, folded))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
    channels = torch.arange(len(before))
    left.bar(channels - 0.2, before.abs().amax(1), 0.4, color=GREY, label="before")
    left.bar(channels + 0.2, after.abs().amax(1), 0.4, color=BLUE, label="folded")
    left.set_xlabel("output channel")
    left.set_ylabel("largest weight")
    left.legend(frameon=False)
    error = float((answer - expected).abs().max())
    right.plot(expected.flatten()[::97], answer.flatten()[::97], ".", ms=3, color=ORANGE)
    right.set_xlabel("convolution, then BatchNorm")
    right.set_ylabel("folded convolution")
    right.set_title(f"largest difference {error:.0e}", fontsize=10)
    save(figure, "fold.svg")


def save(figure: plt.Figure, name: str) -> None:
    """Write the figure, without a date, so that the same numbers give the same file."""
    IMAGES.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(IMAGES / name, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    mpl.use("svg")
    mpl.rcParams.update(
        {"svg.hashsalt": "bnfx", "axes.spines.top": False, "axes.spines.right": False}
    )
    draw_training()
    draw_statistics()
    draw_fold()


if __name__ == "__main__":
    main()
