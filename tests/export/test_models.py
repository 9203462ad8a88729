"""The models people deploy, back in their own class; and what quantisation finds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deployed_models import DETECTORS, OTHERS, SPINE, detector
from runtimes import worst
from support import TORCH
from support import randomise as signed
from torch import nn

import bnfx
from bnfx.bench.zoo.random_norms import randomise
from bnfx.passes.fx.calls.modules import is_batch_norm

MODELS = SPINE | OTHERS
LIGHT = ("mobilenet_v3_small", "timm-resnet18")
NAMES = [n if n in LIGHT else pytest.param(n, marks=pytest.mark.heavy) for n in MODELS]


def ready(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return signed(make()).eval(), torch.randn(shape)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", NAMES)
def test_same_class(name: str) -> None:
    model, x = ready(MODELS[name].build, (1, *MODELS[name].shape[1:]))
    folded = bnfx.fold(model, x, keep="module", assume="example")
    assert type(folded) is type(model)
    with torch.no_grad():
        assert worst(folded(x), model(x)) < 1e-4
    if name in ("resnet18", "resnet50"):
        assert type(bnfx.fold(model, x)) is type(model)
    if name not in ("densenet121", "timm-repvgg_a0", "inception_v3", "googlenet"):
        assert [m for m in folded.modules() if is_batch_norm(m)] == []


@pytest.mark.heavy
@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_keep_their_class(name: str) -> None:
    # In float64: fitted to one picture, ssdlite's 1x1 maps amplify float32's rounding to 1e-3.
    model = detector(name).double()
    x = torch.rand(1, 3, 160, 160).double()
    randomise(model.backbone, x)
    folded = bnfx.fold(model, [x[0]], keep="module", assume="example")
    assert type(folded) is type(model)
    assert not [module for module in folded.modules() if hasattr(module, "running_var")]
    with torch.no_grad():
        assert worst(folded.backbone(x), model.backbone(x)) < 1e-10
    signed(model.float())  # and in float32, with statistics that are not fitted
    same = bnfx.fold(model, [x[0].float()], keep="module", assume="example")
    x = x.float()
    with torch.no_grad():
        assert worst(same.backbone(x), model.backbone(x)) < 1e-4
    assert set(same([x[0]])[0]) == {"boxes", "labels", "scores"}


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


@pytest.mark.skipif(
    TORCH < (2, 12),
    reason="with torch 2.11, torchao 0.18's quantizer leaves every program as it is",
)
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
