"""The models people deploy: through export, back into their class, into packages and ONNX."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from support import randomise as signed
from support import relative
from torch import nn
from torch.utils import _pytree as pytree
from torchvision.models import get_model

import bnfx
from bnfx.bench.zoo_random import randomise
from bnfx.passes.fx.modules import is_batch_norm
from bnfx.passes.report import Outcome

SPINE = {
    "resnet18": lambda: get_model("resnet18", weights=None),
    "resnet50": lambda: get_model("resnet50", weights=None),
    "mobilenet_v2": lambda: get_model("mobilenet_v2", weights=None),
    "mobilenet_v3_small": lambda: get_model("mobilenet_v3_small", weights=None),
    "mobilenet_v3_large": lambda: get_model("mobilenet_v3_large", weights=None),
    "densenet121": lambda: get_model("densenet121", weights=None),
    "efficientnet_b0": lambda: get_model("efficientnet_b0", weights=None),
    "deeplabv3_resnet50": lambda: get_model("deeplabv3_resnet50", weights_backbone=None),
    "inception_v3": lambda: get_model("inception_v3", weights=None, init_weights=False),
    "googlenet": lambda: get_model("googlenet", weights=None, init_weights=False),
    "repvgg_a0": lambda: timm.create_model("repvgg_a0"),
    "timm_resnet18": lambda: timm.create_model("resnet18"),
}
LIGHT = ("mobilenet_v3_small", "timm_resnet18")


def marked(names: Any) -> list[Any]:
    return [n if n in LIGHT else pytest.param(n, marks=pytest.mark.heavy) for n in names]


def ready(make: Callable[[], nn.Module]) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(1, 3, 128, 128)
    randomise(model, x)
    return model, x


def worst(actual: Any, expected: Any) -> float:
    ours, theirs = pytree.tree_leaves(actual), pytree.tree_leaves(expected)
    assert len(ours) == len(theirs)
    return max(relative(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", marked(SPINE))
def test_export_round_trip(name: str) -> None:
    model, x = ready(SPINE[name])
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        expected = model(x)
    folded, report = bnfx.fold(program), bnfx.explain(program)
    file = io.BytesIO()
    torch.export.save(folded, file)
    file.seek(0)
    loaded = torch.export.load(file)
    with torch.no_grad():
        assert worst(loaded.module()(x), expected) < 1e-4
    calls = [node for node in loaded.graph.nodes if node.op == "call_function"]
    left = sum("batch_norm" in str(node.target) for node in calls)
    assert left == report.count(Outcome.KEPT) == 0
    # What no node reads (the auxiliary heads of inception and googlenet) is no business of a fold.
    idle = {node.name for node in program.graph.find_nodes(op="placeholder") if not node.users}
    kept = {spec.target for spec in program.graph_signature.input_specs if spec.arg.name in idle}
    assert {key for key in loaded.state_dict if "running" in key} <= kept


@pytest.mark.parametrize("name", marked(SPINE))
def test_same_class(name: str) -> None:
    model, x = ready(SPINE[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bnfx.FoldWarning)
        folded = bnfx.fold(model, x, keep="module")
    assert type(folded) is type(model)
    with torch.no_grad():
        assert worst(folded(x), model(x)) < 1e-4
    if name in ("resnet18", "resnet50", "timm_resnet18"):
        assert type(bnfx.fold(model, x)) is type(model)
    if name not in ("densenet121", "repvgg_a0", "inception_v3", "googlenet"):
        assert [m for m in folded.modules() if is_batch_norm(m)] == []


DETECTORS = (
    "fasterrcnn_mobilenet_v3_large_fpn",
    "retinanet_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
)


@pytest.mark.heavy
@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_keep_their_class(name: str) -> None:
    # In float64: fitted to one picture, ssdlite's 1x1 maps amplify float32's rounding to 1e-3.
    model = get_model(name, weights=None, weights_backbone=None).eval().double()
    x = torch.rand(1, 3, 160, 160).double()
    randomise(model.backbone, x)
    folded = bnfx.fold(model, [x[0]])
    assert type(folded) is type(model)
    assert not any(hasattr(module, "running_var") for module in folded.modules())
    with torch.no_grad():
        assert worst(folded.backbone(x), model.backbone(x)) < 1e-10
    with torch.no_grad():  # what export can take of a detector
        program = torch.export.export(model.backbone, (x,))
    part = bnfx.fold(program)
    with torch.no_grad():
        assert worst(part.module()(x), model.backbone(x)) < 1e-10
    signed(model.float())  # and in float32, with statistics that are not fitted
    same, x = bnfx.fold(model, [x[0].float()]), x.float()
    with torch.no_grad():
        assert worst(same.backbone(x), model.backbone(x)) < 1e-4
    assert set(same([x[0]])[0]) == {"boxes", "labels", "scores"}


@pytest.mark.heavy
def test_segmentation_models_pytorch() -> None:
    model, x = ready(lambda: smp.Unet("resnet18", encoder_weights=None))
    folded = bnfx.fold(model, x, keep="module")
    assert type(folded) is type(model)
    with torch.no_grad():
        assert worst(folded(x), model(x)) < 1e-4


def test_quantisers_find_what_they_look_for() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    x = torch.randn(1, 3, 8, 8)
    randomise(model, x)
    program = torch.export.export(model, (x,))
    folded = bnfx.fold(program).module()
    aten = torch.ops.aten
    (conv,) = (n for n in folded.graph.nodes if n.target is aten.conv2d.default)
    before = next(n for n in program.graph.nodes if n.target is aten.conv2d.default)
    for key in ("nn_module_stack", "torch_fn", "source_fn_stack"):
        assert (key in conv.meta) == (key in before.meta), key
    assert [user.target for user in conv.users] == [aten.relu.default]
    assert [argument.op for argument in conv.args[1:3]] == ["get_attr", "get_attr"]


def test_prepare_pt2e_after_a_fold() -> None:
    from torchao.quantization.pt2e import quantize_pt2e as quantize
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    x = torch.randn(1, 3, 8, 8)
    randomise(model, x)
    folded = bnfx.fold(torch.export.export(model, (x,)))
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = quantize.prepare_pt2e(folded.module(), quantizer)
    prepared(x)
    converted = quantize.convert_pt2e(prepared)
    targets = {str(node.target) for node in converted.graph.nodes}
    assert any("quantize_per_channel" in target for target in targets)
    with torch.no_grad():
        assert worst(converted(x), model(x)) < 0.05  # 8 bits


@pytest.mark.heavy
def test_the_page_runs_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/export.md, with what takes a compiler or onnxscript."""
    import re

    page = (Path(__file__).parents[2] / "docs/export.md").read_text()
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for snippet in re.findall(r"^```python[^\n]*\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
            exec(snippet, names)
    assert {path.name for path in tmp_path.iterdir()} >= {"resnet18.pt2", "resnet18.onnx"}
