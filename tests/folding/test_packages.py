"""Models of packages that bnfx does not depend on, as they are, without their weights.

A package that is not installed is skipped. Each model is folded in every form and compared in
float64 with the original, its BatchNorms randomised; what the class leaves is said in a warning.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import fx, nn

import bnfx
from bnfx.folding.verify import relative_error

pytestmark = pytest.mark.heavy


@dataclass(frozen=True)
class Package:
    """A model of a package.

    Args:
        module, name: where its class or function is.
        shape: of the input.
        make: how it is built.
        more: further inputs by name.
        graph: whether there can be one; doctr's ``forward`` calls what ``torch.compiler`` disables.
    """

    module: str
    name: str
    shape: tuple[int, ...]
    make: Callable[[Any], nn.Module]
    more: dict[str, Any] = field(default_factory=dict)
    graph: bool = True

    def __str__(self) -> str:
        return f"{self.module.split('.')[0]}-{self.name}"


def _doctr(make: Any) -> nn.Module:
    return make(pretrained=False, pretrained_backbone=False)


def _hf(name: str, **config: Any) -> Callable[[Any], nn.Module]:
    def make(kind: Any) -> nn.Module:
        transformers = importlib.import_module("transformers")
        return kind(getattr(transformers, f"{name}Config")(**config))

    return make


_TEXT = {"text": torch.zeros(1, 5, dtype=torch.long)}
_RAW = {"return_model_output": True}
PACKAGES = [
    Package(
        "facenet_pytorch",
        "InceptionResnetV1",
        (2, 3, 80, 80),
        lambda kind: kind(pretrained=None, classify=True, num_classes=10),
    ),
    Package("kornia.feature", "HardNet", (4, 1, 32, 32), lambda kind: kind(pretrained=False)),
    Package("kornia.feature.keynet", "KeyNet", (1, 1, 40, 40), lambda kind: kind(pretrained=False)),
    Package("easyocr.craft", "CRAFT", (1, 3, 64, 64), lambda kind: kind(pretrained=False)),
    Package("easyocr.model.vgg_model", "Model", (1, 1, 64, 96), lambda k: k(1, 64, 64, 20), _TEXT),
    Package("easyocr.model.model", "Model", (1, 1, 64, 96), lambda k: k(1, 64, 64, 20), _TEXT),
    Package("doctr.models.recognition", "crnn_vgg16_bn", (1, 3, 32, 64), _doctr, _RAW, False),
    Package(
        "doctr.models.recognition", "crnn_mobilenet_v3_small", (1, 3, 32, 64), _doctr, _RAW, False
    ),
    Package("doctr.models.recognition", "sar_resnet31", (1, 3, 32, 64), _doctr, _RAW, False),
    Package(
        "panns_inference.models",
        "Cnn14",
        (1, 32000),
        lambda kind: kind(32000, 1024, 320, 64, 50, 14000, 527),
    ),
    Package(
        "ultralytics.nn.tasks",
        "DetectionModel",
        (1, 3, 64, 64),
        lambda kind: kind("yolov8n.yaml", verbose=False),
    ),
    Package(
        "ultralytics.nn.tasks",
        "DetectionModel",
        (1, 3, 64, 64),
        lambda kind: kind("yolo11n.yaml", verbose=False),
    ),
    Package(
        "transformers",
        "RegNetModel",
        (1, 3, 64, 64),
        _hf(
            "RegNet",
            hidden_sizes=[16, 24, 32, 48],
            depths=[1, 1, 2, 1],
            groups_width=8,
            embedding_size=16,
        ),
    ),
    Package(
        "transformers",
        "LevitModel",
        (1, 3, 64, 64),
        _hf(
            "Levit",
            image_size=64,
            hidden_sizes=[16, 24, 32],
            num_attention_heads=[2, 2, 2],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
        ),
    ),
    Package(
        "transformers",
        "MobileNetV2Model",
        (1, 3, 64, 64),
        _hf("MobileNetV2", depth_multiplier=0.35),
    ),
    Package(
        "speechbrain.lobes.models.ECAPA_TDNN",
        "ECAPA_TDNN",
        (2, 30, 20),
        lambda kind: kind(
            20, channels=[32] * 4 + [96], lin_neurons=16, attention_channels=8, se_channels=16
        ),
    ),
    Package(
        "speechbrain.lobes.models.Xvector",
        "Xvector",
        (2, 30, 20),
        lambda kind: kind(in_channels=20, tdnn_channels=[32] * 4 + [48], lin_neurons=16),
    ),
]


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(getattr(module, "running_var", None), torch.Tensor)


def _randomise(model: nn.Module) -> None:
    """Signed scales near one: a deep net must neither vanish nor overflow."""
    for module in filter(_has_statistics, model.modules()):
        norm: Any = module
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.running_mean, std=0.3)
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.6, 1.4)
            nn.init.normal_(norm.bias, std=0.3)
            norm.weight.data *= torch.randint(0, 2, norm.weight.shape) * 2 - 1


@pytest.mark.parametrize("keep", ["auto", "module", "graph"])
@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_every_form_is_exact(package: Package, keep: str) -> None:
    pytest.importorskip(package.module.split(".")[0], exc_type=ImportError)
    kind = getattr(importlib.import_module(package.module), package.name)
    torch.manual_seed(0)
    model = package.make(kind)
    _randomise(model)
    model = model.double().eval()
    x = torch.randn(package.shape, dtype=torch.float64)
    torch.manual_seed(1)  # speechbrain's pooling adds noise
    with torch.no_grad():
        expected = model(x, **package.more)
    if keep == "graph" and not package.graph:
        with pytest.raises(bnfx.CaptureError, match="cannot capture"):
            bnfx.fold(model, x, keep=keep, **package.more)
        return
    if keep == "auto" and not package.graph:
        keep = "module"  # what comes back if the class holds any fold; else there is none
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        folded = bnfx.fold(model, x, keep=keep, verify=False, **package.more)
    torch.manual_seed(1)
    with torch.no_grad():
        assert relative_error(folded(x, **package.more), expected) < 1e-9
    if isinstance(folded, fx.GraphModule):
        return
    assert type(folded) is type(model)
    if any(map(_has_statistics, folded.modules())):
        said = " ".join(str(warning.message) for warning in seen)
        assert keep == "auto" or "left" in said
