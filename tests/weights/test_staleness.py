"""Whatever is written to the weights, and however, the next answer is the model's own."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from counting import counted
from support import randomise, relative
from torch import nn

import bnfx

Model = nn.Sequential


def make(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3))
    model.extend([nn.BatchNorm2d(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)])
    return randomise(model, seed).eval()


def sgd(fused: bool) -> Callable[[Model], None]:
    def write(model: Model) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()

    return write


def train_a_step(model: Model) -> None:
    model.train()
    with torch.enable_grad():
        model(torch.randn(8, 3, 9, 9))
    model.eval()


def replace_parameters(model: Model) -> None:
    model.load_state_dict(make(7).state_dict(), assign=True)


def in_place(model: Model) -> None:
    model[1].running_var.mul_(1.5)


def one_element(model: Model) -> None:
    model[4].weight.data[3] = 2.0


def through_numpy(model: Model) -> None:
    model[1].running_mean.numpy()[2] = 3.0


def data_op(model: Model) -> None:
    model[0].weight.data.mul_(1.3)


WRITES: dict[str, Callable[[Model], None]] = {
    "in-place": in_place,
    "conv-weight": lambda model: model[3].weight.mul_(1.1),
    "conv-bias": lambda model: model[3].bias.add_(1),
    "unfolded-linear": lambda model: model[7].weight.mul_(-1.1),
    "load-state-dict": lambda model: model.load_state_dict(make(5).state_dict()) and None,
    "load-state-dict-assign": replace_parameters,
    "data-assignment": lambda model: setattr(model[0].weight, "data", model[0].weight * -1.1),
    "new-parameter": lambda model: setattr(model[4], "weight", nn.Parameter(torch.rand(32))),
    "new-module": lambda model: model.__setitem__(4, make(3)[4]),
    "sgd": sgd(fused=False),
    "fused-sgd": sgd(fused=True),
    "eager-training": train_a_step,
    "data-op": data_op,
    "numpy": through_numpy,
    "one-element": one_element,
    "nothing": lambda model: None,
}


def check_write(compiled: Any, model: Model, write: str) -> None:
    x = torch.randn(2, 3, 9, 9)
    before = model(x)
    for _ in range(2):
        WRITES[write](model)
        assert relative(compiled(x), model(x)) < 1e-5, write
        assert relative(compiled(x), model(x)) < 1e-5, write
    if write != "nothing":
        assert relative(model(x), before) > 1e-3, "the write must matter"


@pytest.mark.parametrize("write", WRITES)
def test_write_is_seen(write: str) -> None:
    model, x = make(), torch.randn(2, 3, 9, 9)
    options = {"weights": "live", "inner": "eager"}
    compiled = torch.compile(model, backend="bnfx", options=options)
    with torch.no_grad():
        assert relative(compiled(x), model(x)) < 1e-5
        check_write(compiled, model, write)


@pytest.mark.parametrize("weights", ["live", "frozen"])
def test_writes_are_seen_under_inductor(weights: str) -> None:
    """Each is the first change of a model that is compiled before, packed or frozen."""

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x)

    compiled = torch.compile(forward, backend="bnfx", options={"weights": weights})
    with torch.no_grad():
        for at, write in enumerate(WRITES):
            model = make(at)
            check_write(functools.partial(compiled, model), model, write)


def test_an_optimizer_of_another_model_changes_nothing() -> None:
    model, other, x = make(), make(1), torch.randn(2, 3, 9, 9)
    compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    with torch.no_grad(), counted() as count:
        compiled(x)
        count.took()
        sgd(fused=True)(other)
        compiled(x)
        assert count.took() == (0, 0)
        sgd(fused=True)(model)
        compiled(x)
        assert count.took() == (0, 1)
        compiled(x)
        assert count.took() == (0, 0)


def test_refresh_after_a_write_that_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64))
    randomise(model).eval()
    x = torch.randn(1, 64, 5, 5)
    compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    with torch.no_grad():
        compiled(x)
        model[0].weight.detach().numpy()[1, 2, 1, 1] += 5.0
        bnfx.refresh(compiled)
        assert relative(compiled(x), model(x)) < 1e-5


def test_two_instances_share_a_graph_but_not_weights() -> None:
    class Net(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.layers = make(seed)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    models = [Net(seed).eval() for seed in range(3)]
    reports: list[bnfx.Report] = []
    options = {"report": reports.append}
    compiled = [torch.compile(model, backend="bnfx", options=options) for model in models]
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        for _ in range(3):
            for model, fast in zip(models, compiled, strict=True):
                assert relative(fast(x), model(x)) < 1e-5
        models[1].layers[1].bias.add_(1)
        for model, fast in zip(models, compiled, strict=True):
            assert relative(fast(x), model(x)) < 1e-5


def test_more_instances_than_are_kept() -> None:
    from bnfx.weights.folded import MAX_PARAMETER_SETS

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x)

    models = [make(seed) for seed in range(MAX_PARAMETER_SETS + 2)]
    compiled = torch.compile(forward, backend="bnfx", options={"inner": "eager"})
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        for _ in range(2):
            for model in models:
                assert relative(compiled(model, x), model(x)) < 1e-5


def test_train_and_evaluate_in_turn() -> None:
    model = make()
    compiled = torch.compile(model, backend="bnfx", options={"inner": "aot_eager"})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x = torch.randn(4, 3, 9, 9)
    for _ in range(3):
        model.train()
        compiled(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            assert relative(compiled(x), model(x)) < 1e-5


def test_values_that_stop_being_foldable_and_come_back() -> None:
    model, x = make(), torch.randn(2, 3, 9, 9)
    compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    with torch.no_grad():
        compiled(x)
        good = model[1].running_var.clone()
        model[1].running_var[3] = -1.0
        assert torch.equal(compiled(x).isnan(), model(x).isnan())
        model[1].running_var.copy_(good)
        assert relative(compiled(x), model(x)) < 1e-5


def test_inference_tensors_count_no_versions() -> None:
    with torch.inference_mode():
        model, x = make(), torch.randn(2, 3, 9, 9)
        compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
        for _ in range(2):
            assert relative(compiled(x), model(x)) < 1e-5
            model[3].weight[0, 0, 0, 0] += 4.0


def test_the_model_is_not_kept_alive() -> None:
    import gc
    import weakref

    model, x = make(), torch.randn(2, 3, 9, 9)
    twin = copy.deepcopy(model)

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x)

    compiled = torch.compile(forward, backend="bnfx", options={"inner": "eager"})
    with torch.no_grad():
        compiled(model, x)
        gone = weakref.ref(model[0].weight)
        del model
        gc.collect()
        assert relative(compiled(twin, x), twin(x)) < 1e-5
    gc.collect()
    assert gone() is None


def test_snapshot_notices_what_it_says() -> None:
    from bnfx.weights import Snapshot

    tensors = [torch.randn(8), torch.randn(100, 100), torch.full((3,), float("nan"))]
    snapshot = Snapshot(tensors)
    assert snapshot.holds(tensors)
    assert not snapshot.holds([tensors[0].clone(), *tensors[1:]])
    tensors[1].numpy()[:] *= 2  # moves no version: only the content shows it
    assert not snapshot.holds(tensors)
    snapshot = Snapshot(tensors)
    np.copyto(tensors[0].numpy(), 1.0)
    assert not snapshot.holds(tensors)


class Constant(nn.Module):
    """Outputs that depend on no input: with constant weights, they would be constants."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = make()
        self.register_buffer("anchors", torch.randn(1, 3, 9, 9))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.layers(x), self.anchors.clone(), self.layers(self.anchors)


@pytest.mark.slow
def test_a_caller_may_write_to_what_it_was_given() -> None:
    model, x = Constant().eval(), torch.randn(2, 3, 9, 9)
    compiled = torch.compile(model, backend="bnfx")
    with torch.no_grad():
        for output in compiled(x):
            output.zero_()
        for actual, expected in zip(compiled(x), model(x), strict=True):
            assert relative(actual, expected) < 1e-5


@pytest.mark.parametrize(
    "place",
    [
        lambda weight: weight[:, 1:],
        lambda weight: weight[:, :, 1:],
        lambda weight: weight[:, :, 1, 1],
        lambda weight: weight[1::2],
    ],
)
def test_the_sample_meets_every_place_of_a_filter(place: Callable[..., torch.Tensor]) -> None:
    for shape in ((64, 8, 3, 3), (128, 64, 3, 3), (256, 256, 3, 3), (64, 64, 1, 1)):
        if shape[-1] == 1:
            continue  # its places are all sampled by the others
        tensor = torch.randn(shape)
        from bnfx.weights import Snapshot

        snapshot = Snapshot([tensor])
        place(tensor.data).mul_(3)
        assert not snapshot.holds([tensor])


def test_swap_tensors_still_works() -> None:
    model, x = make(), torch.randn(2, 3, 9, 9)
    compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    with torch.no_grad():
        compiled(x)
        other = nn.Parameter(torch.randn_like(model[0].weight))
        torch.utils.swap_tensors(model[0].weight, other)
        assert relative(compiled(x), model(x)) < 1e-5
