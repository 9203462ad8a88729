"""Engines behind torch.compile: right, never stale, and what they do not take is named."""

from __future__ import annotations

import contextlib
import copy
import os
import pkgutil
import threading
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
import torchvision
from rebuilds import join_builds
from support import randomise
from torch import nn

import bnfx
from bnfx.errors import InnerWarning
from bnfx.inner.engines import served


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """No fall-back goes unnoticed."""
    torch._dynamo.reset()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", InnerWarning)
        warnings.simplefilter("error", bnfx.RewriteWarning)
        yield


ENGINES = {
    "openvino": "bnfx.inner.openvino.session.Requests",
    "onnxruntime": "bnfx.inner.onnxruntime.onnx_session.Bindings",
}


BUILDERS = {
    "openvino": "bnfx.inner.openvino.session.OpenVino",
    "onnxruntime": "bnfx.inner.onnxruntime.onnx_session.OnnxRuntime",
}


@pytest.fixture(params=ENGINES, autouse=True)
def inner(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(request.param)
    _inner.append(request.param)
    yield request.param
    _inner.pop()


_inner: list[str] = []  # that of the test


def _model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    return randomise(model, seed).eval()


def _compiled(model: nn.Module, reports: list[Any] | None = None, **more: Any) -> Any:
    options = {"inner": _inner[-1], "report": None if reports is None else reports.append}
    return torch.compile(model, backend="bnfx", options=options, **more)


def _agree(run: Any, model: nn.Module, x: torch.Tensor) -> None:
    ours, theirs = run(x), model(x)
    assert ours.stride() == theirs.stride()
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def _in_the_engine(run: Any, x: torch.Tensor) -> bool:
    """Whether OpenVINO answers such a call."""
    with mock.patch(f"{ENGINES[_inner[-1]]}.__call__", side_effect=_Asked):
        try:
            run(x)
        except _Asked:
            return True
    return False


class _Asked(BaseException):
    """The engine was asked."""


def test_it_folds_and_answers() -> None:
    reports: list[Any] = []
    model, x = _model(), torch.randn(2, 3, 9, 9)
    run = _compiled(model, reports)
    for _ in range(3):
        _agree(run, model, x)
    assert reports[-1].count("folded") == 1
    assert reports[-1].graphs[0].weights == "frozen"


def test_outputs_are_the_callers() -> None:
    model, x = _model(), torch.randn(2, 3, 9, 9)
    run = _compiled(model)
    run(x)
    kept = run(x)
    before = kept.clone()
    run(torch.randn(2, 3, 9, 9))
    assert torch.equal(kept, before)
    kept.zero_()
    _agree(run, model, x)


def test_layouts_sizes_and_numbers_that_are_not_finite() -> None:
    model = _model()
    run = _compiled(model, dynamic=True)
    for size in (9, 12, 9):
        for _ in range(2):
            x = torch.randn(2, 3, size, size)
            _agree(run, model, x)
            _agree(run, model, x.to(memory_format=torch.channels_last))
            _agree(run, model, torch.randn(2, 3, size, 2 * size)[..., ::2])
    x[0, 0, 3, 3] = float("nan")
    assert run(x).isnan().equal(model(x).isnan())
    x[0, 0, 3, 3] = float("inf")
    assert run(x).isfinite().equal(model(x).isfinite())


@contextlib.contextmanager
def _builds(inner: str) -> Iterator[Any]:
    """Counts what the engine builds."""
    engine = pkgutil.resolve_name(BUILDERS[inner])
    with mock.patch.object(engine, "build", autospec=True, side_effect=engine.build) as build:
        yield build


@pytest.mark.one_in(2)
@pytest.mark.parametrize("dynamic", [True, None])
def test_open_sizes_are_built_once(inner: str, dynamic: bool | None) -> None:
    """Dynamo's automatic ones, too: nothing is built from the fourth size on."""
    model = nn.Sequential(*_model(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    run = _compiled(model, dynamic=dynamic)
    for size in (8, 9, 10, 11):
        _agree(run, model, torch.randn(2, 3, size, size + 1))
    with _builds(inner) as build:
        for size in (12, 14, 17):
            for _ in range(3):
                x = torch.randn(2, 3, size, size + 1)
                _agree(run, model, x)
            assert _in_the_engine(run, x)
    assert build.call_count == 0


class Shuffle(nn.Module):
    """Sizes that are computed, moved about and asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.model = _model()

    def forward(self, x: torch.Tensor) -> Any:
        y = self.model(x)
        batch, channels, height, width = y.shape
        y = y.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        y = y.reshape(batch, channels, height, width)[:, :, 1:, : width // 2]
        y = y.flatten(2).transpose(1, 2) if height > width else y.flatten(2) * width
        return torch.cat([y, y[:, :1]], 1) / height


@pytest.mark.slow
def test_sizes_that_are_computed_with(inner: str) -> None:
    model = Shuffle().eval()
    run = _compiled(model, dynamic=True)
    for height, width in ((9, 8), (12, 9), (14, 10), (15, 13), (9, 8), (8, 9), (9, 12), (10, 14)):
        for batch in (1, 2, 5):
            x = torch.randn(batch, 3, height, width)
            _agree(run, model, x)
            _agree(run, model, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_floats_are_nearer_to_exact_than_pytorch_is(dtype: torch.dtype) -> None:
    model, x = _model().to(dtype), torch.randn(2, 3, 9, 9).to(dtype)
    exact = copy.deepcopy(model).double()(x.double())
    run = _compiled(model)
    theirs = run(x)
    for _ in range(2):
        ours = run(x)
        assert ours.dtype == dtype
        assert ours.stride() == theirs.stride()
        # The folded weights are rounded, and the answer.
        bound = 4 * torch.finfo(dtype).eps * float(exact.abs().max())
        assert float((ours.double() - exact).abs().max()) < bound
    model[3].weight.mul_(-2)
    for _ in range(8):
        assert float((run(x).double() - copy.deepcopy(model).double()(x.double())).abs().max()) < (
            2 * bound
        )


def test_pictures_of_integers() -> None:
    class Picture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = _model()

        def forward(self, x: torch.Tensor) -> Any:
            return self.model(x.permute(0, 3, 1, 2) / 255)

    model, x = Picture().eval(), torch.randint(0, 256, (2, 9, 9, 3), dtype=torch.uint8)
    run = _compiled(model)
    for _ in range(3):
        _agree(run, model, x)
    assert _in_the_engine(run, x)


def test_a_trace_serves_other_weights() -> None:
    """After a change only the engine's own build is paid again, and nothing of the old weights."""
    model, x = _model(), torch.randn(2, 3, 9, 9)
    run = _compiled(model)
    _agree(run, model, x)
    with mock.patch.object(served, "aten_graph", side_effect=AssertionError("traced again")):
        model[0].weight.neg_()
        for _ in range(8):
            _agree(run, model, x)
            join_builds()
    assert _in_the_engine(run, x)


@pytest.mark.parametrize("write", ["weight", "statistics", "state", "data", "numpy", "module"])
def test_a_write_shows_in_the_next_answer(write: str) -> None:
    model, x = _model(), torch.randn(2, 3, 9, 9)
    run = _compiled(model)
    for _ in range(2):
        _agree(run, model, x)
    for turn in range(2):
        if write == "weight":
            model[3].weight.mul_(1.5)
        elif write == "statistics":
            model[1].running_var.mul_(2.5)
        elif write == "state":
            model.load_state_dict(_model(turn + 5).state_dict())
        elif write == "data":
            model[0].weight.data = model[0].weight * -1.1
        elif write == "numpy":
            model[1].running_mean.numpy()[2] += 3
        else:
            model[3] = nn.Conv2d(8, 4, 3)
        for _ in range(8):  # in PyTorch, until they have settled
            _agree(run, model, x)
            if turn == 0:
                join_builds()
        assert turn or _in_the_engine(run, x)


def test_a_model_without_batch_norm_is_never_stale() -> None:
    model, x = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2)).eval(), torch.randn(3, 5)
    run = _compiled(model)
    for _ in range(3):
        _agree(run, model, x)
    model[0].weight.mul_(-2)
    for _ in range(8):
        _agree(run, model, x)


def test_threads() -> None:
    model = _model()
    run = _compiled(model)
    run(torch.randn(2, 3, 9, 9))
    failures: list[BaseException] = []

    def serve(seed: int) -> None:
        x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
        try:
            with torch.no_grad():
                for _ in range(20):
                    _agree(run, model, x)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=serve, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_forked_child_is_answered_by_pytorch() -> None:
    model, x = _model(), torch.randn(2, 3, 9, 9)
    run = _compiled(model)
    run(x), run(x)
    theirs = model(x)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        right = float((run(x) - theirs).abs().max()) < 1e-5
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_it_does_not_take_is_named_and_compiled_all_the_same() -> None:
    model = nn.Sequential(_model(), nn.GLU(1)).eval()
    run, x = _compiled(model), torch.randn(2, 3, 9, 9)
    with pytest.warns(InnerWarning, match="aten.glu"):
        run(x)
    _agree(run, model, x)


def test_unknown_properties_are_named(inner: str) -> None:
    key, right = {
        "openvino": ("INFERENCE_NUM_THREAD", "INFERENCE_NUM_THREADS"),
        "onnxruntime": ("intra_op_num_thread", "intra_op_num_threads"),
    }[inner]
    options = {"inner": inner, "inner_options": {key: 1}}
    run = torch.compile(_model(), backend="bnfx", options=options)
    with pytest.raises(bnfx.OptionError, match=f"did you mean '{right}'"):
        run(torch.randn(1, 3, 9, 9))


def test_an_option_takes_the_place_of_ours(capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime warns of one that is set twice."""
    onnxruntime = pytest.importorskip("bnfx.inner.onnxruntime.onnx_session")
    runtime = pytest.importorskip("onnxruntime")
    for key, value in (*onnxruntime._spinning(runtime).items(), ("intra_op_num_threads", 1)):
        inner_options = {key: value}
        options = {"inner": "onnxruntime", "inner_options": inner_options}
        model = _model()
        run = torch.compile(model, backend="bnfx", options=options)
        _agree(run, model, torch.randn(1, 3, 9, 9))
    assert "already exists" not in capfd.readouterr().err


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v3_small", "densenet121", "efficientnet_b0", "shufflenet_v2_x0_5"],
)
def test_whole_networks(name: str) -> None:
    """At two sizes, and after a write, each twice: PyTorch answers the first call of a size."""
    model = randomise(torchvision.models.get_model(name)).eval()
    run = _compiled(model, dynamic=False)
    for size in (64, 96):
        x = torch.randn(1, 3, size, size)
        _agree(run, model, x)
        _agree(run, model, x)
    next(model.parameters()).mul_(1.1)
    _agree(run, model, x)
    _agree(run, model, x)
