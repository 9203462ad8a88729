"""A compiler that takes precision away is told of, and can be forbidden."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support import fail_on_warnings, randomise, relative
from torch import fx, nn

import bnfx
from bnfx.errors import InnerWarning

X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    return randomise(nn.Sequential(*layers), 0).eval()


class Coarse:
    """Computes in bfloat16, as OpenVINO does where the processor can. Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            self.calls += 1
            with torch.autocast("cpu", torch.bfloat16):
                return tuple(each.to(args[0].dtype) for each in module(*args))

        return run


def compiled(model: nn.Module, inner: Any, **options: Any) -> tuple[Callable[..., Any], list[Any]]:
    reports: list[bnfx.Report] = []
    options = {"inner": inner, "report": reports.append, **options}
    return torch.compile(model, backend="bnfx", options=options), reports


@pytest.mark.parametrize("weights", ["auto", "live", "frozen"])
def test_a_coarse_answer_is_warned_of(weights: str) -> None:
    model, inner = net(), Coarse()
    function, reports = compiled(model, inner, weights=weights)
    words = "answers otherwise than PyTorch: its relative error is .*e-03, .* explains 1.0e-03; opt"
    with torch.no_grad():
        with pytest.warns(InnerWarning, match=words) as told:
            function(X)
        ours = [each for each in told if each.category is InnerWarning]
        assert [each.filename for each in ours] == [__file__]
        assert inner.calls == 2, "once for the look, once for the call"
        function(X)
        assert inner.calls == 3
    assert reports[0].count("folded") == 1


def test_a_coarse_answer_can_be_forbidden() -> None:
    model, inner = net(), Coarse()
    function, reports = compiled(model, inner, first_answer="forbid")
    with torch.no_grad():
        with pytest.warns(InnerWarning, match="explains 1.0e-03; PyTorch runs the graph"):
            assert torch.equal(function(X), model(X))
        model[1].running_mean.add_(1)
        assert torch.equal(function(X), model(X))
        assert inner.calls == 1
    (verdict,) = (v for v in reports[0].verdicts if v.site.kind == "batch_norm")
    assert verdict.outcome is bnfx.Outcome.KEPT
    assert "not the model's" in verdict.refusals[-1].reason


def test_nobody_looks_if_it_is_off() -> None:
    model, inner = net(), Coarse()
    function, _ = compiled(model, inner, first_answer="off")
    with torch.no_grad():
        assert relative(function(X), model(X)) > 1e-3
    assert inner.calls == 1


def test_a_wrong_value_is_an_error() -> None:
    function, _ = compiled(net(), "eager", first_answer="raise")
    with (
        torch.no_grad(),
        pytest.raises(bnfx.OptionError, match="first_answer='raise' is not valid"),
    ):
        function(X)


class Chaotic(nn.Module):
    """Amplifies rounding a million times."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.layers(x) * 1e6).sin()


class Narrow(Chaotic):
    """As chaotic, and not to be computed in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("by", torch.eye(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.layers(x).float() @ self.by * 1e6).sin()


class Counting(nn.Module):
    """Writes to a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = net()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.layers(x) * self.calls


class Noisy(nn.Module):
    """Draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + torch.rand_like(x[:, :1, :5, :5])


class Overwriting(nn.Module):
    """Writes to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.mul_(2))


class Infinite(nn.Module):
    """What overflows is infinite in both."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).exp() * 1e38


@pytest.mark.parametrize("kind", [Chaotic, Narrow, Counting, Noisy, Overwriting, Infinite])
def test_no_false_alarm(kind: type[nn.Module]) -> None:
    model, twin = kind().eval(), kind().eval()
    function, reports = compiled(model, "eager")
    state = torch.get_rng_state()
    with torch.no_grad():
        for _ in range(2):  # the look leaves nothing behind
            torch.set_rng_state(state)
            got = function(X.clone())
            torch.set_rng_state(state)
            want = twin(X.clone())
            if not issubclass(kind, Chaotic):
                assert torch.allclose(got, want, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert reports[0].count("folded") == 1


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["inductor", "aot_eager"])
def test_no_false_alarm_of_compilers(inner: str) -> None:
    """Inductor returns lists."""
    model = net()
    function, reports = compiled(model, inner)
    with torch.no_grad():
        assert relative(function(X), model(X)) < 1e-5
    assert reports[0].count("folded") == 1


class Doubling(torch.Tensor):
    """Dynamo writes what this does into the graph, and calls it without."""

    @classmethod
    def __torch_function__(cls, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = super().__torch_function__(call, types, args, kwargs or {})
        return answer * 2 if call is torch.nn.functional.batch_norm else answer


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("by", X[0, :, :1, :1].clone().as_subclass(Doubling))  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x * self.by).as_subclass(torch.Tensor)


@pytest.mark.parametrize("verify", [False, True])
def test_no_false_alarm_where_weights_have_torch_functions(verify: bool) -> None:
    model = randomise(Doubled()).eval()
    function, reports = compiled(model, "eager", verify=verify)
    with torch.no_grad(), warnings.catch_warnings():
        fail_on_warnings()
        assert relative(function(X), model(X)) < 1e-5
    assert reports[0].count("lowered") + reports[0].count("folded") == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_no_false_alarm_in_other_dtypes(dtype: torch.dtype) -> None:
    model = net().to(dtype)
    function, reports = compiled(model, "eager")
    with torch.no_grad():
        function(X.to(dtype))
    assert reports[0].count("folded") == 1


def test_no_false_alarm_under_autocast_and_with_open_sizes() -> None:
    model = net()
    function = torch.compile(model, backend="bnfx", dynamic=True, options={"inner": "eager"})
    with torch.no_grad():
        for size in (9, 7, 12):
            x = torch.randn(2, 3, size, size)
            assert relative(function(x), model(x)) < 1e-5
        torch._dynamo.reset()
        with torch.autocast("cpu", torch.bfloat16):
            function(X)


def test_float32_for_a_model_in_float64_is_told_of() -> None:
    def narrow(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        return lambda *args: tuple(each.double() for each in module(*(a.float() for a in args)))

    model = net().double()
    function, _ = compiled(model, narrow)
    with torch.no_grad(), pytest.warns(InnerWarning, match="e-07, where rounding explains 1.0e-09"):
        function(X.double())


def test_operators_that_may_have_effects_run_once() -> None:
    ran: list[int] = []

    @torch.library.custom_op("bnfx_tests::counted", mutates_args=())
    def counted(x: torch.Tensor) -> torch.Tensor:
        ran.append(1)
        return x.clone()

    counted.register_fake(torch.empty_like)

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return counted(self.layers(x))

    function, reports = compiled(Counted().eval(), "eager")
    with torch.no_grad():
        function(X)
    assert len(ran) == 1
    assert reports[0].count("folded") == 1


def test_bodies_are_run_no_more_often(caplog: pytest.LogCaptureFixture) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, torch.sin, torch.cos, (self.layers(x),))

    model, inner = Branching().eval(), Coarse()
    function, _ = compiled(model, inner)
    with torch.no_grad(), caplog.at_level("DEBUG", "bnfx"):
        function(X)
    assert inner.calls == 1
    assert "could not be looked at" not in caplog.text, "it was run, as far as a body"


def test_a_look_that_fails_is_none() -> None:
    def failing(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        answers: list[Callable[..., Any]] = [module.forward]

        def run(*args: Any) -> Any:
            if answers:
                answers.clear()
                raise torch.OutOfMemoryError("no memory for a second answer")
            return module(*args)

        return run

    model = net()
    function, _ = compiled(model, failing)
    with torch.no_grad(), warnings.catch_warnings():
        fail_on_warnings()
        assert relative(function(X), model(X)) < 1e-5


def test_a_write_meanwhile_is_no_error_of_the_compiler() -> None:
    """Another thread's, between PyTorch's answer and the compiled one's."""
    model = net()

    class Writing(Coarse):
        def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
            run = super().__call__(module, inputs)

            def call(*args: Any) -> Any:
                if self.calls == 0:
                    model[1].bias.add_(1)
                return run(*args)

            return call

    function, _ = compiled(model, Writing())
    with torch.no_grad():
        function(X)


def test_a_graph_that_fails_says_so_by_itself() -> None:
    """The look is no call of the user's: what fails in it is not raised."""

    def failing(module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            raise ZeroDivisionError("a kernel's own")

        return run

    function, reports = compiled(net(), failing)
    with torch.no_grad(), pytest.raises(ZeroDivisionError, match="a kernel's own"):
        function(X)
    assert len(reports) == 1


def test_nothing_is_looked_at_where_gradients_are_needed() -> None:
    inner = Coarse()
    with warnings.catch_warnings():
        fail_on_warnings()
        function, _ = compiled(net(), inner)
        function(X)
    assert inner.calls == 1
