"""What Dynamo declines to do changes nothing: answers are the model's under every stance."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from recorded import small
from support import LEAST_EPS, relative
from torch import fx, nn
from writes import CHEAP, Net, Step, in_place, train_compiled

THREADS = 8
STANCES = ("default", "eager_on_recompile", "fail_on_recompile", "force_eager", "disable", "limit")
INDUCTOR = ("eager_on_recompile", "disable")


@contextmanager
def stance(name: str) -> Iterator[None]:
    """A stance of Dynamo's, or a setting that has the like effect."""
    with ExitStack() as stack:
        if name == "disable":
            stack.enter_context(torch._dynamo.config.patch(disable=True))
        elif name == "limit":
            limits = {"recompile_limit": 1, "accumulated_recompile_limit": 1}
            stack.enter_context(torch._dynamo.config.patch(limits))
        else:
            stack.enter_context(torch.compiler.set_stance(name))
        yield


def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x)


def unsign(model: Net, rng: random.Random) -> None:
    """Signs on which a route relied, the other way round: another form of the graph."""
    with torch.no_grad():
        model.second_norm.running_mean.neg_()
        model.norm.weight.neg_()


def overflow(model: Net, rng: random.Random) -> None:
    """Numbers that must not be folded, on and off: the original graph answers."""
    with torch.no_grad():
        model.norm.running_var[1] *= -1


def call(compiled: Any, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return compiled(model, x)


def check(compiled: Any, models: list[Net], xs: list[torch.Tensor], pool: Any, where: str) -> None:
    """Threads call both instances with both sizes, at once."""
    calls = [(model, x) for model in models for x in xs] * (THREADS // 4)
    answers = list(pool.map(lambda given: call(compiled, *given), calls))
    with torch.no_grad():
        for (model, x), answer in zip(calls, answers, strict=True):
            expected = model(x)
            torch.testing.assert_close(
                answer, expected, rtol=1e-4, atol=1e-4, equal_nan=True, msg=where
            )


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", STANCES)
@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_threads_and_writes(name: str, inner: str) -> None:
    """Every write of the staleness sequences, and forms that are compiled late."""
    models = [Net(1), Net(2)]
    for model in models:
        model.requires_grad_(False)
    xs = [torch.randn(size, 2, 7, 7) for size in (2, 3)]
    compiled = torch.compile(
        forward, backend="bnfx", dynamic=False, options={"inner": inner, "weights": "live"}
    )
    for x in xs:
        call(compiled, models[0], x)
    steps: list[Step] = [unsign, overflow, *CHEAP, overflow, unsign, in_place]
    if name == "fail_on_recompile":
        steps.remove(train_compiled)  # it compiles on its own
    rng, history = random.Random(3), []
    # Guards of Dynamo's own fail now and then when threads meet; this stance makes that an error.
    threads = 1 if name == "fail_on_recompile" else THREADS
    with stance(name), ThreadPoolExecutor(threads) as pool:
        for at, step in enumerate(steps):
            step(models[at % 2], rng)
            history.append(step.__name__)
            check(compiled, models, xs, pool, f"{name}: {' '.join(history)}")


@pytest.mark.slow
@pytest.mark.parametrize("name", INDUCTOR)
@pytest.mark.parametrize("weights", ["frozen", "auto"])
def test_constants_and_packed_weights(name: str, weights: str) -> None:
    """Of the real Inductor: the live body is compiled after the first change, by one thread."""
    models = [small(1), small(2)]
    xs = [torch.randn(2, 3, 8, 8)]
    compiled = torch.compile(forward, backend="bnfx", dynamic=False, options={"weights": weights})
    call(compiled, models[0], xs[0])
    with stance(name), ThreadPoolExecutor(THREADS) as pool:
        for factor in (3.0, -2.0, 0.5):
            for model in models:
                model[1].weight.fill_(factor)
                check(compiled, models, xs * 2, pool, f"{name} {factor}")
        for _ in range(3):  # enough calls to be frozen again
            check(compiled, models, xs * 2, pool, name)


class Counting:
    """An inner compiler that counts, and may look at sizes."""

    def __init__(self, looks: bool = False) -> None:
        self.compiled = 0
        self.looks = looks

    def __call__(self, graph: fx.GraphModule, example_inputs: Any) -> Any:
        self.compiled += 1
        if self.looks:
            sizes = [int(x.shape[0]) for x in self._fakes(graph) if x.dim() == 4]
            assert sizes  # a guard of its own on each
        return graph.forward

    @staticmethod
    def _fakes(graph: fx.GraphModule) -> list[torch.Tensor]:
        values = [n.meta["example_value"] for n in graph.graph.find_nodes(op="placeholder")]
        return [value for value in values if isinstance(value, torch.Tensor)]


def spoil(model: nn.Sequential) -> None:
    model[1].running_var[2] = -1.0


def late(dynamic: bool, inner: Counting) -> tuple[nn.Sequential, Any]:
    """A compiled model that needs its original graph from now on."""
    model, x = small(), torch.randn(4, 3, 10, 9)  # no two sizes alike
    compiled = torch.compile(model, backend="bnfx", dynamic=dynamic, options={"inner": inner})
    with torch.no_grad():
        assert relative(compiled(x), model(x)) < 1e-5
    assert inner.compiled == 1
    spoil(model)
    return model, compiled


def test_a_late_body_is_compiled_once_for_all_threads() -> None:
    inner = Counting()
    model, compiled = late(False, inner)
    x = torch.randn(4, 3, 10, 9)

    def answer(_: int) -> torch.Tensor:
        with torch.no_grad():
            return compiled(x)

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(answer, range(4 * THREADS)))
    assert inner.compiled == 2
    for each in answers:
        torch.testing.assert_close(each, model(x), equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("looks", "bound"), [(False, 2), (True, 9)])
def test_a_late_body_keeps_sizes_symbolic(looks: bool, bound: int) -> None:
    """One body for all sizes; where the compiler takes a size for a constant, a bounded number."""
    inner = Counting()
    model, compiled = late(True, inner)
    inner.looks = looks
    with torch.no_grad():
        for _ in range(2):
            for batch in range(2, 14):
                x = torch.randn(batch, 3, batch + 6, 9)
                torch.testing.assert_close(
                    compiled(x), model(x), equal_nan=True, rtol=1e-4, atol=1e-4
                )
    assert inner.compiled == bound


def test_a_late_compilation_that_fails_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Counting):
        def __call__(self, graph: fx.GraphModule, example_inputs: Any) -> Any:
            if self.compiled:
                raise RuntimeError("no more")
            return super().__call__(graph, example_inputs)

    model, compiled = late(False, Failing())
    x = torch.randn(4, 3, 10, 9)
    with torch.no_grad():
        for factor in (1.0, 2.0):
            model[1].bias.fill_(factor)
            torch.testing.assert_close(compiled(x), model(x), equal_nan=True, rtol=1e-4, atol=1e-4)
    assert "did not compile" in caplog.text


def test_a_late_body_keeps_no_hold_of_the_model() -> None:
    model, compiled = late(True, Counting())
    with torch.no_grad():
        x = torch.randn(4, 3, 8, 8)
        compiled(x)
        other = nn.Parameter(torch.randn_like(model[0].weight), requires_grad=False)
        torch.utils.swap_tensors(model[0].weight, other)  # refuses one with weak references
        torch.testing.assert_close(compiled(x), model(x), equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("first", ["norm", "prelu"])
def test_what_only_a_later_form_reads_is_watched(first: str) -> None:
    """A form that folds more than the first, and a sign that is a condition and no weight."""
    torch.manual_seed(0)
    model = small()
    if first == "norm":
        model[1].running_var.fill_(0.0)
        model[1].eps = LEAST_EPS  # no fold of the first BatchNorm when the graph is captured
    else:
        model[2] = nn.PReLU(8)
        model[2].weight.data = torch.rand(8) + 0.1
        model.requires_grad_(False)
    compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        compiled(x)
        if first == "norm":
            model[1].running_var.fill_(0.7)
            model[4].running_var[0] = -1.0
            torch.testing.assert_close(compiled(x), model(x), equal_nan=True, rtol=1e-4, atol=1e-4)
            model[4].running_var[0] = 1.0
        for tensor in (model[1].weight, model[1].bias, model[0].weight, *model[2].parameters()):
            for _ in range(2):
                tensor.mul_(-1.5)
                assert relative(compiled(x), model(x)) < 1e-5


class Gridded(nn.Module):
    """Has a parameter that compiled code reads as it is laid out."""

    def __init__(self) -> None:
        super().__init__()
        self.head = small()
        self.grid = nn.Parameter(torch.randn(8, 8), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)[:, :, :1, :1] * self.grid


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["live", "frozen"])
def test_a_weight_that_is_laid_out_otherwise_where_nobody_guards(weights: str) -> None:
    """Inductor's own code refuses it; packed, it was read as it was laid out before."""
    model = Gridded().eval()
    compiled = torch.compile(model, backend="bnfx", options={"weights": weights})
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert relative(compiled(x), model(x)) < 1e-5
        model.grid.t_()
        with torch.compiler.set_stance(skip_guard_eval_unsafe=True):
            assert relative(compiled(x), model(x)) < 1e-5
