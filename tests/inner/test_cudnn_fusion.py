"""cuDNN's fused convolution takes the place of what it is equal to, and of nothing else.

The graphs are Inductor's own, of fake CUDA tensors, so that no GPU is needed to see them; the
numbers are checked on the CPU, where the ops compute the same by its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support import randomise, relative
from torch import fx, nn
from torch._inductor.compile_fx import compile_fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import bnfx
from bnfx.inner import cudnn_trial
from bnfx.inner.cudnn_fusion import fuse, with_fusion

Forward = Callable[..., torch.Tensor]


def conv(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.conv2d(x, w, b, (1, 1), (1, 1))


FUSED: dict[str, tuple[Forward, str]] = {
    "relu": (lambda x, w, b, z: conv(x, w, b).relu(), "conv_relu"),
    "relu_": (lambda x, w, b, z: conv(x, w, b).relu_(), "conv_relu"),
    "no bias": (lambda x, w, b, z: torch.conv2d(x, w, None, (1, 1), (1, 1)).relu(), "conv_relu"),
    "dilated": (
        lambda x, w, b, z: torch.conv2d(x, w, b, (1, 1), (2, 2), (2, 2)).relu(),
        "conv_relu",
    ),
    "grouped": (
        lambda x, w, b, z: torch.conv2d(x, w[:, :2], b, (1, 1), (1, 1), 1, 4).relu(),
        "conv_relu",
    ),
    "residual": (lambda x, w, b, z: (conv(x, w, b) + z).relu(), "conv_add_relu"),
    "residual before": (lambda x, w, b, z: (z + conv(x, w, b)).relu(), "conv_add_relu"),
    "residual_": (lambda x, w, b, z: conv(x, w, b).add_(z).relu_(), "conv_add_relu"),
    "of its input": (lambda x, w, b, z: (conv(x, w, b) + x).relu(), "conv_add_relu"),
}
LEFT: dict[str, Forward] = {
    "two readers": lambda x, w, b, z: (y := conv(x, w, b)).relu() + y,
    "the sum is read": lambda x, w, b, z: (y := conv(x, w, b) + z).relu() + y,
    "relu6": lambda x, w, b, z: nn.functional.relu6(conv(x, w, b)),
    "leaky": lambda x, w, b, z: nn.functional.leaky_relu(conv(x, w, b)),
    "scaled sum": lambda x, w, b, z: torch.add(conv(x, w, b), z, alpha=2).relu(),
    "broadcast": lambda x, w, b, z: (conv(x, w, b) + z[:1]).relu(),
    "a number": lambda x, w, b, z: (conv(x, w, b) + 1).relu(),
    "another layout": lambda x, w, b, z: (
        conv(x, w, b) + z.transpose(2, 3).contiguous().transpose(2, 3)
    ).relu(),
    "transposed": lambda x, w, b, z: torch.conv_transpose2d(x, w, b, 1, 1).relu(),
    "other dtypes": lambda x, w, b, z: conv(x.double(), w.double(), b.double()).relu(),
    "one dimension": lambda x, w, b, z: torch.conv1d(x[..., 0], w[..., 0], b, 1, 1).relu(),
    "no convolution": lambda x, w, b, z: (x + z).relu(),
}


def arguments(device: str = "cpu") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 8, 6, 6), (8, 8, 3, 3), (8,), (2, 8, 6, 6)]
    made = [torch.randn(shape, generator=generator) for shape in shapes]
    return made if device == "cpu" else [torch.empty(shape, device=device) for shape in shapes]


def always(node: fx.Node, like: torch.Tensor) -> bool:
    return True


def targets(graph: fx.Graph) -> list[str]:
    return [node.target.__name__ for node in graph.nodes if node.op == "call_function"]


def traced(forward: Forward) -> fx.GraphModule:
    """The aten graph, functional, with fake tensors as metadata."""
    functional = torch.func.functionalize(forward, remove="mutations")
    return make_fx(functional, tracing_mode="fake")(*arguments())


@pytest.mark.parametrize("name", FUSED)
def test_fuses_and_computes_the_same(name: str) -> None:
    forward, op = FUSED[name]
    module = traced(forward)
    assert fuse(module.graph, always, device="cpu") == 1
    module.recompile()
    assert targets(module.graph).count(f"{op}.default") == 1
    assert not {"convolution.default", "relu.default"} & set(targets(module.graph))
    expected = forward(*arguments())
    assert relative(module(*arguments()), expected) < 1e-6


@pytest.mark.parametrize("name", LEFT)
def test_leaves(name: str) -> None:
    module = traced(LEFT[name])
    before = targets(module.graph)
    assert fuse(module.graph, always, device="cpu") == 0
    assert targets(module.graph) == before


def test_a_convolution_elsewhere_is_left() -> None:
    module = traced(FUSED["relu"][0])
    assert fuse(module.graph, always) == 0


def test_what_is_refused_is_left_as_it_was() -> None:
    module = traced(FUSED["residual"][0])
    before = targets(module.graph)
    asked: list[fx.Node] = []
    assert fuse(module.graph, lambda node, like: bool(asked.append(node)), device="cpu") == 0
    assert len(asked) == 1
    assert targets(module.graph) == before


class Block(nn.Module):
    """Three folds: one before a ReLU, one before a sum and a ReLU, one before a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.two, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.bn2(self.two(self.bn1(self.one(x)).relu())) + x).relu()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_inductor_runs_the_pass_on_cuda_graphs(layout: torch.memory_format) -> None:
    """With Inductor's own passes, to where code would be generated."""
    seen: list[list[str]] = []

    def keep(module: fx.GraphModule, inputs: Sequence[Any], **rest: Any) -> Any:
        from torch._inductor import config

        config.post_grad_custom_pre_pass(module.graph)
        seen.append(targets(module.graph))
        return module

    block = bnfx.fold(randomise(Block()).eval(), torch.randn(2, 8, 6, 6), keep="graph")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        x = torch.empty(2, 8, 6, 6, device="cuda").to(memory_format=layout)
        weights = {name: tensor.to("cuda") for name, tensor in block.state_dict().items()}

        def forward(x: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
            named = dict(zip(weights, tensors, strict=True))
            return torch.func.functional_call(block, named, (x,))

        module = make_fx(forward, tracing_mode="fake")(x, *weights.values())
        compile_fx(
            module,
            [x, *weights.values()],
            inner_compile=keep,
            config_patches=with_fusion({}, always=True),
        )
    (ops,) = seen
    assert ops.count("conv_relu.default") == ops.count("conv_add_relu.default") == 1
    assert "convolution.default" not in ops


def test_the_users_own_pass_keeps_its_place() -> None:
    own = {"post_grad_custom_pre_pass": lambda graph: None}
    assert with_fusion(own, always=True) == own


def test_without_a_gpu_a_trial_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the trial costs the fusion, not the answer."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "none")

    def fail(*args: Any) -> list[float]:
        raise RuntimeError("no device")

    monkeypatch.setattr(cudnn_trial, "_milliseconds", fail)
    cudnn_trial._known.clear()
    module = traced(FUSED["relu"][0])
    assert fuse(module.graph, cudnn_trial.is_faster, device="cpu") == 0
    cudnn_trial._known.clear()


@pytest.mark.parametrize(("times", "count"), [([1.0, 2.0], 1), ([2.0, 1.0], 0), ([1.0, 1.0], 0)])
def test_the_faster_way_is_taken_and_tried_once(
    times: list[float], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "none")
    monkeypatch.setattr(
        cudnn_trial,
        "_milliseconds",
        lambda *ways: [way() for way in ways] and (tried.append(1) or times),
    )
    cudnn_trial._known.clear()
    for _ in range(2):
        module = traced(FUSED["residual"][0])
        assert fuse(module.graph, cudnn_trial.is_faster, device="cpu") == count
    assert tried == [1]
    cudnn_trial._known.clear()


@pytest.mark.slow
def test_on_the_cpu_the_option_changes_nothing() -> None:
    block, x = randomise(Block()).eval(), torch.randn(2, 8, 6, 6)
    options = {"cudnn_fusion": "trial", "weights": "frozen"}
    with torch.no_grad():
        compiled = torch.compile(block, backend="bnfx", options=options)
        assert relative(compiled(x), block(x)) < 1e-5
