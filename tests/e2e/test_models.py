"""Real models: no BatchNorm left, every one accounted for, the answer unchanged."""

from __future__ import annotations

import pytest
import torch
from deployed_models import OTHERS, SPINE
from support import HEAVY, Capture, randomise, relative
from torch import nn

from bnfx.passes.fx.calls.modules import is_batch_norm

MODELS = SPINE | OTHERS
# Squeeze and excite, concatenation, channel shuffles, layer scale, video. Others of the fast suite:
# resnet18 and U-Net by the zoo's sample, repvgg by test_branches, densenet121 by the command line.
FAST = ("mobilenet_v3_large", "googlenet", "shufflenet_v2_x1_0", "convnext_tiny", "r3d_18")


def executed_batch_norms(model: nn.Module, x: torch.Tensor) -> int:
    calls: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_: calls.append("call"))
        for module in model.modules()
        if is_batch_norm(module)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return len(calls)


def answer(output: object) -> torch.Tensor:
    """The main output; torchvision's segmentation models return a dict."""
    return output["out"] if isinstance(output, dict) else output


@pytest.mark.one_in(9)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else HEAVY) for name in MODELS]
)
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [(torch.float64, 1e-10), pytest.param(torch.float32, 1e-4, marks=HEAVY)],
    ids=["float64", "float32"],
)
def test_model(name: str, dtype: torch.dtype, bound: float) -> None:
    build, shape, folded = MODELS[name]
    torch.manual_seed(0)
    model = randomise(build()).eval()
    x = torch.randn(shape, dtype=torch.float64)
    expected_sites = executed_batch_norms(model, x.float())
    model.to(dtype)
    capture = Capture()
    compiled = torch.compile(model, backend="bnfx", options=capture.options)
    with torch.no_grad():
        error = relative(answer(compiled(x.to(dtype))), answer(model(x.to(dtype))))
    assert error < bound
    verdicts = [
        verdict
        for report in capture.reports
        for verdict in report.verdicts
        if verdict.site.kind == "batch_norm"
    ]
    assert len(verdicts) == expected_sites
    assert len({id(verdict.site) for verdict in verdicts}) == expected_sites
    assert capture.batch_norms() == 0
    outcomes = [verdict.outcome.value for verdict in verdicts]
    assert outcomes.count("folded") == folded
    assert outcomes.count("lowered") == expected_sites - folded
