"""TVM as the inner compiler of torch.compile: right, never stale, and it names what it lacks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from relax.models import randomised
from torch import fx, nn

from bnfx.errors import InnerWarning, OptionError
from bnfx.inner.tvm.compiler import inner


def _model() -> nn.Module:
    return randomised(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
        )
    )


def _compiled(model: Any, reports: Any = None, dynamic: bool | None = None, **options: Any) -> Any:
    chosen = {"inner": "tvm", "inner_options": {"target": "llvm", **options}}
    return torch.compile(
        model, backend="bnfx", dynamic=dynamic, options={**chosen, "report": reports}
    )


def _close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.stride() == theirs.stride()
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert float(error) < 1e-5


@pytest.fixture(autouse=True)
def _quiet(request: pytest.FixtureRequest) -> Any:
    """No fallback goes unnoticed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", InnerWarning)
        yield


@torch.no_grad()
def test_it_runs_and_folds() -> None:
    model, reports = _model(), []
    run = _compiled(model, reports.append)
    x = torch.randn(2, 3, 12, 12)
    _close(run(x), model(x))
    assert reports[-1].count("folded") == 1


@torch.no_grad()
def test_weights_are_constants_and_never_stale() -> None:
    """Each way to write to a parameter shows in the next answer."""
    model = _model()
    run = _compiled(model)
    x = torch.randn(2, 3, 12, 12)
    _close(run(x), model(x))
    writes = [
        lambda: model[1].weight.mul_(-2.0),
        lambda: model[0].weight.add_(0.1),
        lambda: model[3].bias.fill_(3.0),
        lambda: model[1].running_mean.add_(1.0),
        lambda: model.load_state_dict(_model_of_other_seed().state_dict()),
        lambda: setattr(model[3].weight, "data", torch.randn(4, 8, 3, 3)),
    ]
    for write in writes:
        before = run(x)
        write()
        after = run(x)
        assert not torch.allclose(before, after)
        _close(after, model(x))


def _model_of_other_seed() -> nn.Module:
    return randomised(_model(), seed=7)


@torch.no_grad()
def test_two_models_of_one_class_do_not_share_weights() -> None:
    one, other = _model(), _model_of_other_seed()
    x = torch.randn(2, 3, 12, 12)
    for model in (one, other, one):
        _close(_compiled(model)(x), model(x))


@pytest.mark.slow
@torch.no_grad()
def test_other_sizes_are_built_anew() -> None:
    model = _model()
    run = _compiled(model)
    for shape in ((2, 3, 12, 12), (5, 3, 12, 12), (3, 3, 10, 9), (2, 3, 12, 12)):
        x = torch.randn(*shape)
        _close(run(x), model(x))


@torch.no_grad()
def test_outputs_are_laid_out_as_in_torch() -> None:
    model = _model().to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 12, 12).to(memory_format=torch.channels_last)
    _close(_compiled(model)(x), model(x))


class _Spectrum(nn.Module):
    """A Fourier transform between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        z = torch.fft.fft(y).real
        out: torch.Tensor = self.linear((y + z).mean((2, 3)))
        return out


@pytest.mark.slow
@torch.no_grad()
def test_unknown_ops_run_in_torch_and_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    model = randomised(_Spectrum())
    run = _compiled(model)
    x = torch.randn(2, 3, 12, 12)
    with pytest.warns(InnerWarning, match=r"_fft_r2c.default \(not in the table") as caught:
        ours = run(x)
    assert [warning.filename for warning in caught] == [__file__]
    assert "_fft" not in caplog.text  # which keeps what a program shows that sets up no logging
    _close(ours, model(x))
    model.norm.weight.mul_(-1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InnerWarning)
        _close(run(x), model(x))


@torch.no_grad()
def test_writes_to_inputs_and_views_of_them_are_eager() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

        def forward(self, x: torch.Tensor) -> Any:
            y = self.norm(self.conv(x))
            x[:, 1:].mul_(2.0)
            x.add_(1.0)
            return y, x, x[0], x + 0

    model = randomised(Writes())
    results = []
    for run in (_compiled(model), model):
        x = torch.linspace(-1, 1, 75).reshape(1, 3, 5, 5).clone()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InnerWarning)
            y, same, view, copy = run(x)
        assert same is x
        assert view._base is x
        view.zero_()
        results.append((y, x, copy))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_inputs_that_share_memory() -> None:
    def reads(x: torch.Tensor, part: torch.Tensor) -> Any:
        return torch.tanh(x) * 2, part * 3, part.mT

    def writes(x: torch.Tensor, part: torch.Tensor) -> Any:
        part.mul_(2.0)
        return x * 3, x.add_(1.0), part, x[0]

    for function, expected in ((reads, None), (writes, "share memory, and are written to")):
        results = []
        for run in (_compiled(function), function):
            x = torch.linspace(-1, 1, 75).reshape(1, 3, 5, 5).clone()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", InnerWarning)
                results.append([*run(x, x[:, 1:]), x])
            texts = [str(one.message) for one in caught if one.category is InnerWarning]
            if run is not function:
                assert bool(texts) is bool(expected)
                assert all(expected in text for text in texts)
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs)
        assert results[0][2]._base is results[0][-1]


def test_a_graph_whose_writes_cannot_be_told_says_why() -> None:
    graph = fx.symbolic_trace(lambda x, part: (x * 2, part[part > 0]))  # of a size not known
    x = torch.linspace(-1, 1, 6)
    with pytest.warns(InnerWarning, match="told .DynamicOutputShape"):
        run = inner({"target": "llvm"}).compile(graph, (x, x[1:]))
    assert run is graph


@torch.no_grad()
def test_strides_that_torch_tells_wrongly() -> None:
    """``group_norm`` of channels_last gives other strides than its fake tensor has."""

    def flat(x: torch.Tensor) -> Any:
        y = nn.functional.group_norm(x, 2)
        return y.flatten(1) * 2, y / 3

    def whole(x: torch.Tensor) -> Any:
        return nn.functional.group_norm(x, 2) / 3

    x = torch.randn(2, 4, 6, 8).contiguous(memory_format=torch.channels_last)
    for function in (flat, whole):
        told: list[Any] = []
        run = torch.compile(
            function,
            backend="bnfx",
            options={"inner": "tvm", "inner_options": {"report": told.append}},
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InnerWarning)
            for _ in range(2):
                torch.testing.assert_close(run(x), function(x))
        assert told[0].tvm["div.Tensor"] == 1
        assert not told[0].differences
    assert run(x).stride() == whole(x).stride()


@torch.no_grad()
def test_answers_that_cancel_are_no_differences() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, (8,)).mean(-1)

    torch.manual_seed(82)
    _compiled(function)(torch.randn(2, 3, 7, 8))  # a difference would be a warning, an error here


@torch.no_grad()
def test_outputs_own_their_memory_except_where_eager_views() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.register_buffer("anchors", torch.tensor([1.0, 2.0, 3.0, 4.0]))

        def forward(self, x: torch.Tensor) -> Any:
            y = self.norm(self.conv(x)) * 2
            grid = torch.arange(4.0)
            flat = y.flatten(1)
            return y, flat, y[:, 1:, ::2], grid, grid[1:], self.anchors.clone(), x.clone(), x.mT

    model = randomised(Head())
    run, x = _compiled(model), torch.randn(2, 3, 4, 4)
    keep = x.clone()
    for _ in range(2):
        ours, theirs = run(x), model(x)
        for one, other in zip(ours, theirs, strict=True):
            assert (one.stride(), one.storage_offset()) == (other.stride(), other.storage_offset())
            torch.testing.assert_close(one, other)
        y, flat, part, grid, rest, anchors, copy, turned = ours
        assert turned._base is x
        y.zero_()
        assert not flat.any()
        assert not part.any()
        grid.zero_()
        assert not rest.any()
        anchors.zero_()
        copy.zero_()
        assert torch.equal(x, keep)
        assert model.anchors.tolist() == [1.0, 2.0, 3.0, 4.0]


@torch.no_grad()
def test_an_answer_stays_when_the_next_is_computed() -> None:
    model = _model()
    run = _compiled(model)
    inputs = [torch.randn(2, 3, 12, 12) for _ in range(4)]
    answers = [run(x) for x in inputs]
    for x, answer in zip(inputs, answers, strict=True):
        _close(answer, model(x))


@torch.no_grad()
def test_outputs_of_stride_zero() -> None:
    def f(x: torch.Tensor) -> Any:
        y = x * 2
        return (
            y.mean(0).expand(3, -1),
            torch.meshgrid(y[0], y[1], indexing="ij"),
            y[:1].expand(4, 7),
        )

    x = torch.randn(5, 7)
    ours, theirs = _run(f, x), f(x)
    for one, other in zip(_flat(ours), _flat(theirs), strict=True):
        assert one.stride() == other.stride()
        torch.testing.assert_close(one, other)


def _flat(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else [t for v in value for t in _flat(v)]


def _run(function: Any, *inputs: Any, **options: Any) -> Any:
    """Compiled; what PyTorch runs of it is no matter."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InnerWarning)
        return _compiled(function, **options)(*inputs)


RANDOM: dict[str, Any] = {
    "dropout": lambda x: nn.functional.dropout(x * 2, 0.5, True) + 1,
    "dropout2d": lambda x: nn.functional.dropout2d(x, 0.3, True) * 2,
    "alpha_dropout": lambda x: nn.functional.alpha_dropout(x, 0.3, True),
    "randn_like": lambda x: x + 2 * torch.randn_like(x),
    "rand": lambda x: x * torch.rand(x.shape),
    "exponential_": lambda x: torch.empty_like(x).exponential_(),
    "bernoulli_": lambda x: torch.empty_like(x).bernoulli_(0.5) * x,
    "bernoulli": lambda x: torch.bernoulli(torch.sigmoid(x)),
    "multinomial": lambda x: torch.multinomial(x[0, 0].softmax(-1), 3, True),
    "normal": lambda x: torch.normal(x, 0.5),
    "uniform_": lambda x: x.clone().uniform_(-1, 1),
    "randint": lambda x: torch.randint(0, 9, (3,)) + x.sum(),
    "randperm": lambda x: x[:, :, torch.randperm(x.shape[2])],
    "rrelu": lambda x: nn.functional.rrelu(x, training=True),
    "two": lambda x: (torch.rand(2), x.tanh() + torch.rand_like(x), torch.rand(2)),
}


@pytest.mark.parametrize("name", RANDOM)
@torch.no_grad()
def test_random_operators_draw_what_eager_draws(name: str) -> None:
    function, x = RANDOM[name], torch.randn(2, 3, 4, 4)
    torch.manual_seed(5)
    theirs = [_flat(function(x)) for _ in range(3)]
    after = torch.rand(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InnerWarning)
        run = _compiled(function)
        run(x)
        torch.manual_seed(5)
        ours = [_flat(run(x)) for _ in range(3)]
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(torch.rand(2), after)
    assert not torch.equal(ours[0][0], ours[1][0])


V, X, N = torch.randn(5, 7), torch.randn(1, 2, 6, 6), torch.randint(-9, 9, (4, 5))
U = torch.randint(0, 255, (2, 3), dtype=torch.uint8)
HOLES = torch.tensor([float("nan"), 1.0, -2.0, float("inf"), -float("inf"), -0.0])
HALF = torch.full((1, 1, 64, 64), 3.0).half()
F = nn.functional
PROGRAMS: dict[str, tuple[Any, ...]] = {
    "last": (lambda a: a[:, -1] * 1, V),
    "list": (lambda a: a[:, [-1, -2]] * 1, V),
    "fancy": (lambda a: a[:, torch.tensor([0, 1]), :, torch.tensor([2, 3])], X),
    "mask": (lambda a: a[a > 0].sum(), V),
    "image": (lambda a: a / 255, U),
    "int-float": (lambda a: a + 1.5, N),
    "int-half": (lambda a: a * 0.5, N),
    "floor": (lambda a: a // 2, N),
    "trunc": (lambda a: torch.div(a, 2, rounding_mode="trunc"), N),
    "remainder": (lambda a: a % 3, N),
    "bytes": (lambda a: a + 200, U),
    "mixed": (lambda a, b: a * b, N[:, :4].float(), N[:, :4]),
    "zero-d": (lambda a, b: a * b, V, torch.tensor(2.0, dtype=torch.float64)),
    "zero-d-half": (lambda a, b: a * b, V.half(), torch.tensor(2.0)),
    "zero-d-alone": (lambda a: a * 2 + 1, torch.tensor(3.0)),
    "bilinear": (lambda a: F.interpolate(a, scale_factor=1.7, mode="bilinear"), X),
    "odd": (lambda a: F.interpolate(a, size=(5, 9), mode="bilinear", align_corners=True), X),
    "bicubic": (lambda a: F.interpolate(a, size=(5, 9), mode="bicubic"), X),
    "nearest": (lambda a: F.interpolate(a, scale_factor=1.7), X),
    "divisor": (lambda a: F.avg_pool2d(a, 2, divisor_override=3), X),
    "ceil": (lambda a: F.avg_pool2d(a, 3, 2, ceil_mode=True), X),
    "indices": (lambda a: F.max_pool2d(a, 2, return_indices=True), X),
    "alpha": (lambda a: torch.add(a, a.flip(0), alpha=3), V),
    "selu": (lambda a: F.selu(a) + 1, V),
    "grid": (lambda a: F.grid_sample(a, torch.zeros(1, 2, 3, 2) + 0.3, align_corners=False), X),
    "half-mean": (lambda a: a.mean((2, 3)), HALF),
    "half-sum": (lambda a: (a * 9).sum((2, 3)), HALF),
    "half-pool": (lambda a: F.adaptive_avg_pool2d(a * 30, 1), HALF),
    "clamp": (lambda a: a.clamp(2, -1), V),
    "holes-clamp": (lambda a: a.clamp(-1, 1), HOLES),
    "holes-relu": (lambda a: torch.relu(a) + F.relu6(a), HOLES),
    "holes-max": (lambda a: (a.max(), torch.maximum(a, a.flip(0)), a.amin()), HOLES),
    "holes-sort": (lambda a: (a.sort()[0], a.topk(2)[1], a.argmax()), HOLES),
    "holes-equal": (lambda a: (a != a, a.isnan(), a == a), HOLES),
    "holes-pool": (lambda a: F.max_pool2d(a.reshape(1, 1, 2, 3), 2, 1, 1), HOLES),
    "complex": (lambda a: (torch.view_as_complex(a[:, :2] * 2) ** 2).imag * 2, V),
    "conjugate": (lambda a: torch.complex(a, a).conj().imag * 2, V),
    "empty": (lambda a: (a[:0] * 2, a[:0].sum(0), torch.cat([a[:0], a * 3])), V),
    "bool": (lambda a: (a.any(1), ~a & True, a.sum()), V > 0),
    "as-strided": (lambda a: (a * 2)[1:].as_strided((2, 2), (1, 3), 1) + 1, V),
    "view-dtype": (lambda a: (a * 2).view(torch.int32), V),
    "number": (lambda a, s: a * s + s, V, 0.25),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", PROGRAMS)
@torch.no_grad()
def test_what_tvm_gets_wrong_is_right(name: str) -> None:
    function, *inputs = PROGRAMS[name]
    placements: list[Any] = []
    ours = _flat(_run(function, *inputs, report=placements.append))
    theirs = _flat(function(*inputs))
    for one, other in zip(ours, theirs, strict=True):
        assert (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        torch.testing.assert_close(one, other, equal_nan=True)
    assert not [text for placement in placements for text in placement.differences]


def _odd_numbers(x: torch.Tensor) -> Any:
    """With numbers about which TVM would know too much: x * 0 is not 0 for each x."""
    square = x.view(4, 4)
    return (
        *(x * 0, x * 1e-50, x / 0, x / 1e-50, torch.add(x, x + 1, alpha=1e-50)),
        *(torch.reciprocal(x + 0.0), torch.reciprocal(F.relu(x)), torch.reciprocal(x.tanh())),
        *(torch.maximum(x, x.flip(0)), torch.minimum(x, x.flip(0)) + 0.0, square.amax(1)),
        *(square.max(0)[0], square.amin((0, 1)), square.softmax(1), square @ square),
        *(
            F.layer_norm(square.clamp(-9, 9), (4,)),
            F.leaky_relu(x, 1e-50),
            F.hardswish(x),
            x - x,
            x / x,
        ),
    )


@pytest.mark.slow
@torch.no_grad()
def test_later_calls_with_odd_numbers() -> None:
    """The first answer, which is compared, is of numbers with which all goes well."""
    numbers = torch.tensor([0.0, -0.0, 1e-40, 1e38, 3.0, 6.0, -1e38, 1e20, -3.0, 2.0])
    special = torch.cat([HOLES, numbers])
    hard = (special, special.flip(0), special * -0.0, torch.full((16,), float("nan")))
    for dtype in (torch.float32, torch.float64, torch.float16):
        placements: list[Any] = []
        torch._dynamo.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InnerWarning)
            run = _compiled(_odd_numbers, report=placements.append)
            run(torch.randn(16).to(dtype))
            for x in hard:
                theirs = _odd_numbers(x.to(dtype))
                for at, (one, other) in enumerate(zip(run(x.to(dtype)), theirs, strict=True)):
                    why = f"output {at}: {one} instead of {other}"
                    torch.testing.assert_close(one, other, equal_nan=True, msg=why)
        assert sum(placements[0].tvm.values()) >= 15
        assert not placements[0].differences


@torch.no_grad()
def test_what_is_rounded_in_between_is_rounded() -> None:
    """The graph is folded by the user's rules, and not once more by all rules."""

    def function(x: torch.Tensor) -> torch.Tensor:
        return (torch.tanh(x) + 1e6) - 1e6

    torch._dynamo.reset()
    inner_options = {"check": False}
    options = {"inner": "tvm", "inner_options": inner_options, "rules": "none"}
    run = torch.compile(function, backend="bnfx", options=options)
    assert torch.equal(run(V), function(V))


@torch.no_grad()
def test_numbers_that_change_are_inputs() -> None:
    def f(a: torch.Tensor, s: float) -> torch.Tensor:
        return a * s

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InnerWarning)
        run = _compiled(f)
        for number in (2.0, 0.5, 3.25, -1.0, 0.0, -0.0, float("nan"), 1e-50):
            ours, theirs = run(HOLES, number), f(HOLES, number)
            assert ours.dtype is torch.float32
            torch.testing.assert_close(ours, theirs, equal_nan=True)
            zeros = theirs == 0
            assert torch.equal(ours[zeros].signbit(), theirs[zeros].signbit())


@pytest.mark.slow
@torch.no_grad()
def test_inputs_of_any_layout() -> None:
    model = _model()
    run = _compiled(model, dynamic=True)
    x = torch.randn(2, 3, 12, 12)
    wide = torch.randn(2, 5, 12, 25)
    for given in (
        x,
        x.contiguous(memory_format=torch.channels_last),
        wide[:, 1:4, :, 1::2],
        x.transpose(2, 3),
        x[:1].expand(2, -1, -1, -1),
    ):
        _close(run(given), model(given))


@pytest.mark.slow
def test_autocast_inference_mode_and_threads() -> None:
    import concurrent.futures

    model, x = _model(), torch.randn(2, 3, 12, 12)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = _run(model, x), model(x)
        assert ours.dtype is theirs.dtype
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=2e-2, atol=2e-2)
    torch._dynamo.reset()
    run = _compiled(model)
    with torch.inference_mode():
        ours = run(x)
        assert ours.is_inference()
        _close(ours, model(x))
    inputs = [torch.randn(2, 3, 12, 12) for _ in range(8)]
    with torch.no_grad():
        run(x)
        expected = [model(one) for one in inputs]

    def task(one: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return run(one)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for ours, theirs in zip(pool.map(task, inputs), expected, strict=True):
                _close(ours, theirs)


@torch.no_grad()
def test_the_first_answer_is_held_against_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is wrong: the graph runs in PyTorch then, with one warning."""
    from dataclasses import replace

    from tvm import relax

    from bnfx.tvm.ops import TABLE

    row = TABLE["tanh.default"]
    wrong = replace(row, emit=lambda low: low.emit(relax.op.sin(low.tensor("self"))))
    monkeypatch.setitem(TABLE, row.op, wrong)

    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) * 2

    placements: list[Any] = []
    run = _compiled(f, report=placements.append)
    with pytest.warns(InnerWarning, match="answers otherwise") as caught:
        answers = [run(V) for _ in range(3)]
    for answer in answers:
        torch.testing.assert_close(answer, f(V))
    assert len(caught) == len(placements[0].differences) == 1
    assert placements[0].check > 0
    torch._dynamo.reset()
    unchecked = _compiled(f, check=False)(V)
    torch.testing.assert_close(unchecked, torch.sin(V) * 2)


@torch.no_grad()
def test_a_type_that_tvm_gets_wrong_is_seen_when_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from tvm import relax

    from bnfx.tvm.ops import TABLE

    row = TABLE["tanh.default"]
    wide = replace(row, emit=lambda low: low.emit(relax.op.astype(low.tensor("self"), "float64")))
    monkeypatch.setitem(TABLE, row.op, wide)

    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x * 3) * 2

    with pytest.warns(InnerWarning, match=r"tanh.default \(TVM makes it float64"):
        torch.testing.assert_close(_compiled(f)(V), f(V))


MODELS: dict[str, Any] = {
    "resnet18": (0, lambda tv: tv.resnet18(weights=None)),
    "mobilenet_v3_small": (0, lambda tv: tv.mobilenet_v3_small(weights=None)),
    "densenet121": (0, lambda tv: tv.densenet121(weights=None)),
    "deeplabv3_mobilenet": (
        0,
        lambda tv: tv.segmentation.deeplabv3_mobilenet_v3_large(
            weights=None, weights_backbone=None
        ),
    ),
    "fpn": (
        0,
        lambda tv: tv.detection.backbone_utils.resnet_fpn_backbone(
            backbone_name="resnet18", weights=None
        ),
    ),
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_models_are_eager_and_run_whole(name: str) -> None:
    import torchvision

    most, make = MODELS[name]
    model = randomised(make(torchvision.models))
    placements: list[Any] = []
    run = _compiled(model, report=placements.append)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InnerWarning)
        for size in (64, 80):
            x = torch.randn(1, 3, size, size)
            ours, theirs = run(x), model(x)
            named = ours if isinstance(ours, dict) else {"": ours}
            for key, value in named.items():
                _close(value, theirs[key] if isinstance(theirs, dict) else theirs)
    print(name, *placements, sep="\n")
    for placement in placements:
        assert not placement.differences
        assert sum(placement.torch.values()) <= most, str(placement)


def test_gradients_are_left_to_torch() -> None:
    """TVM's answer has none, so a graph that needs them runs in PyTorch, and a warning says so."""
    model = _model()
    x = torch.randn(2, 3, 12, 12, requires_grad=True)
    with pytest.warns(InnerWarning, match="gradients are needed"):
        _compiled(model)(x).sum().backward()
    ours = x.grad
    x.grad = None
    model(x).sum().backward()
    assert ours is not None
    torch.testing.assert_close(ours, x.grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targett": "llvm"}, "did you mean 'target'"),
        ({"target": "a toaster"}, "no target"),
        ({"check": 1}, "check must be True or False"),
        ({"report": "yes"}, "report must be a function"),
        ({"chekc": False}, "did you mean 'check'"),
        ({"trials": -1}, "number of trials"),
        ({"trials": 4}, "needs a database"),
        ({"target": "llvm", "arch": "sm_90"}, 'is for the target "cuda"'),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    run = torch.compile(
        _model(), backend="bnfx", options={"inner": "tvm", "inner_options": options}
    )
    with pytest.raises(OptionError, match=message), torch.no_grad():
        run(torch.randn(2, 3, 12, 12))


@pytest.mark.heavy
@torch.no_grad()
def test_tuning_fills_a_database_that_is_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model()
    x = torch.randn(1, 3, 8, 8)
    options = {"trials": 4, "database": tmp_path / "records"}
    _close(_compiled(model, **options)(x), model(x))
    records = (tmp_path / "records" / "database_tuning_record.json").read_text()
    assert records

    from bnfx.tvm import tune

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("what the database has is not tuned again")

    monkeypatch.setattr(tune.meta_schedule.tune, "tune_tasks", refuse)
    torch._dynamo.reset()
    _close(_compiled(model, **options)(x), model(x))
