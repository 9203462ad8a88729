"""Models of packages that bnfx does not depend on, as they are, without their weights.

A package that is not installed is skipped. Each model is folded in every form and compared in
float64 with the original, its BatchNorms randomised. With ``pytest -s``, the rows of the table in
docs/export.md are printed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bnfx
from bnfx.bench.zoo.forms import measure_forms
from bnfx.bench.zoo.forms_page import cells

pytestmark = pytest.mark.heavy


@dataclass(frozen=True)
class Package:
    """A model of a package.

    Args:
        module, name: where its class or function is.
        shape: of the input.
        make: how it is built.
        form: what ``keep="auto"`` gives: ``"class"``, ``"graph"``, or ``"refused"``, as there is
            neither a graph (doctr's ``forward`` calls what ``torch.compiler`` disables) nor
            anything that the class can hold.
        more: further inputs by name.
        says: what tells it from others of that name.
    """

    module: str
    name: str
    shape: tuple[int, ...]
    make: Callable[[Any], nn.Module]
    form: str
    more: dict[str, Any] = field(default_factory=dict)
    says: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.module.split(".")[0], self.name, self.says)))


def _bare(kind: Any) -> nn.Module:
    return kind(pretrained=False)


def _easyocr(kind: Any) -> nn.Module:
    return kind(1, 64, 64, 20)


def _doctr(more: dict[str, Any]) -> Callable[[Any], nn.Module]:
    return lambda make: make(pretrained=False, pretrained_backbone=False, **more)


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
        "class",
    ),
    Package("kornia.feature", "HardNet", (4, 1, 32, 32), _bare, "graph"),
    Package("kornia.feature.keynet", "KeyNet", (1, 1, 40, 40), _bare, "graph"),
    Package("easyocr.craft", "CRAFT", (1, 3, 64, 64), _bare, "graph"),
    Package("easyocr.model.vgg_model", "Model", (1, 1, 64, 96), _easyocr, "graph", _TEXT, "VGG"),
    Package("easyocr.model.model", "Model", (1, 1, 64, 96), _easyocr, "graph", _TEXT, "ResNet"),
    *(
        Package("doctr.models.recognition", name, (1, 3, 32, 64), _doctr(more), form, _RAW, says)
        for name in ("crnn_vgg16_bn", "crnn_mobilenet_v3_small", "sar_resnet31")
        for more, form, says in (({}, "refused", ""), ({"exportable": True}, "graph", "exportable"))
    ),
    Package(
        "panns_inference.models",
        "Cnn14",
        (1, 32000),
        lambda kind: kind(32000, 1024, 320, 64, 50, 14000, 527),
        "graph",
    ),
    *(
        Package(
            "ultralytics.nn.tasks",
            "DetectionModel",
            (1, 3, 64, 64),
            lambda kind, name=name: kind(f"{name}.yaml", verbose=False),
            "graph",
            says=name,
        )
        for name in ("yolov8n", "yolo11n")
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
        "graph",
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
        "graph",
    ),
    Package(
        "transformers",
        "MobileNetV2Model",
        (1, 3, 64, 64),
        _hf("MobileNetV2", depth_multiplier=0.35),
        "graph",
    ),
    Package(
        "speechbrain.lobes.models.ECAPA_TDNN",
        "ECAPA_TDNN",
        (2, 30, 20),
        lambda kind: kind(
            20, channels=[32] * 4 + [96], lin_neurons=16, attention_channels=8, se_channels=16
        ),
        "graph",
    ),
    Package(
        "speechbrain.lobes.models.Xvector",
        "Xvector",
        (2, 30, 20),
        lambda kind: kind(in_channels=20, tdnn_channels=[32] * 4 + [48], lin_neurons=16),
        "graph",
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


@pytest.fixture
def _labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What panns_inference would download when it is imported, and no model of it needs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    labels = tmp_path / "panns_data" / "class_labels_indices.csv"
    labels.parent.mkdir()
    labels.touch()


@pytest.mark.usefixtures("_labels")
@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_every_form_is_exact(package: Package) -> None:
    root = package.module.split(".")[0]
    pytest.importorskip(root, exc_type=ImportError)
    torch.manual_seed(0)
    model = package.make(getattr(importlib.import_module(package.module), package.name))
    _randomise(model)
    model = model.double().eval()
    x = torch.randn(package.shape, dtype=torch.float64)
    distribution = packages_distributions()[root][0]
    name = " ".join((distribution, version(distribution), package.name, package.says))
    row = measure_forms(name, model, x, **package.more)
    print("\n| " + " | ".join(cells(row)) + f" | {row.seconds:.0f} s; {row.reasons}")
    assert not row.problems
    assert row.form == package.form
    assert row.norms > 0
    if row.graph_left is None:
        with pytest.raises(bnfx.CaptureError, match="cannot capture"):
            bnfx.fold(model, x, keep="graph", **package.more)
    if row.form == "refused":
        with pytest.raises(bnfx.CaptureError, match="cannot capture"):
            bnfx.fold(model, x, **package.more)
