"""The picture that the demo's models look at: a house at sunset, drawn with NumPy.

Drawn rather than shipped: the same pixels on every machine, and no binary file in the repository.
It has what photographs have, smooth areas, edges, and fine texture, so activations vary in space.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

# Of ImageNet, as torchvision's and timm's models expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Pixels = npt.NDArray[np.float64]


def draw(size: int = 224) -> Pixels:
    """The scene as ``(size, size, 3)`` pixels, red, green and blue in [0, 1]."""
    y, x = np.mgrid[0:size, 0:size] / size
    scene = _blend((0.25, 0.35, 0.65), (0.95, 0.70, 0.50), y / 0.6)
    _paint(scene, np.hypot(x - 0.72, y - 0.32) < 0.09, (1.0, 0.92, 0.65))
    _paint(scene, y > 0.56 + 0.07 * np.sin(9 * x) + 0.03 * np.sin(23 * x), (0.30, 0.40, 0.35))
    _paint(scene, y > 0.70 + 0.04 * np.sin(5 * x + 2), (0.25, 0.50, 0.18))
    _paint(scene, (abs(x - 0.34) < 0.15) & (abs(y - 0.68) < 0.12), (0.80, 0.72, 0.60))
    _paint(scene, (abs(x - 0.34) < (y - 0.42) * 1.3) & (y < 0.56), (0.60, 0.20, 0.15))
    _paint(scene, (abs(x - 0.34) < 0.03) & (abs(y - 0.74) < 0.06), (0.35, 0.22, 0.12))
    for left in (0.24, 0.44):
        _paint(scene, (abs(x - left) < 0.025) & (abs(y - 0.65) < 0.03), (1.0, 0.85, 0.40))
    texture = np.random.default_rng(0).normal(size=(size, size, 1))
    scene += texture * np.where(y > 0.6, 0.06, 0.01)[..., None]
    return np.clip(scene, 0, 1)


def image(size: int = 224) -> torch.Tensor:
    """The scene as a batch of one, ``(1, 3, size, size)`` in float32, normalised for ImageNet."""
    pixels = (draw(size) - MEAN) / STD
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32))


def _blend(top: tuple[float, ...], bottom: tuple[float, ...], share: Pixels) -> Pixels:
    share = np.clip(share, 0, 1)[..., None]
    mixed: Pixels = (1 - share) * np.array(top) + share * np.array(bottom)
    return mixed


def _paint(scene: Pixels, where: npt.NDArray[Any], colour: tuple[float, ...]) -> None:
    scene[where] = colour
