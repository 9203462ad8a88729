"""What each mode promises besides right answers: what is compiled and refilled, and when."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
from counting import counted
from support import randomise, relative
from torch import nn

import bnfx
from bnfx.weights.freezing import MAX_REFREEZES, QUIET_CALLS


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.second, self.second_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        randomise(self, seed).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x)).relu()
        return self.head(self.second_norm(self.second(x)).mean((2, 3)))


X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x)


def form_of(report: bnfx.Report) -> str:
    ((form, _),) = report.weights
    return form


@pytest.mark.slow
def test_a_wrapper_in_cpp_takes_packed_weights() -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()]
    model = randomise(nn.Sequential(*layers, nn.Linear(8 * 36, 512), nn.Linear(512, 300))).eval()
    reports: list[bnfx.Report] = []
    options = {"inner_options": {"cpp_wrapper": True}, "report": reports.append}
    compiled = torch.compile(model, backend="bnfx", options=options)
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(2, 3, 8, 8)
            assert relative(compiled(x), model(x)) < 1e-5
            model[0].weight.mul_(-2)
            assert relative(compiled(x), model(x)) < 1e-5
    ((form, reason),) = reports[0].weights
    assert (form, reason) == ("live", "inputs, packed for oneDNN")
    assert len(reports) == 1


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("weights", "options", "form", "reason"),
    [
        ("auto", {}, "live", "packed for oneDNN"),
        ("live", {}, "live", "packed for oneDNN"),
        ("frozen", {}, "frozen", "constants"),
        ("auto", {"inner": "aot_eager"}, "live", "only Inductor"),
        ("frozen", {"inner": "aot_eager"}, "live", "gains nothing from constants"),
        ("auto", {"inner_options": {"max_autotune": True}}, "frozen", "max_autotune needs"),
        ("auto", {"inner_options": {"freezing": False}}, "live", "freezing=False"),
    ],
)
def test_the_choice_and_its_reason_are_in_the_report(
    weights: str, options: dict[str, Any], form: str, reason: str
) -> None:
    reports: list[bnfx.Report] = []
    model = Net()
    compiled = torch.compile(
        model, backend="bnfx", options={"weights": weights, "report": reports.append, **options}
    )
    with torch.no_grad():
        assert relative(compiled(X), model(X)) < 1e-5
        model.norm.bias.add_(1)
        assert relative(compiled(X), model(X)) < 1e-5
    ((actual, why),) = reports[0].weights
    assert (actual, reason in why) == (form, True), why
    assert f"weights: {form} ({why})" in reports[0].to_text(width=500)
    told = reports[0].to_dict()["graphs"][0]["weights"]
    assert (told["form"], told["reason"]) == (form, why)


@pytest.mark.parametrize("inner", ["eager", "inductor"])
def test_live_never_compiles_again(inner: str) -> None:
    model = Net()
    compiled = torch.compile(model, backend="bnfx", options={"weights": "live", "inner": inner})
    with torch.no_grad(), counted() as count:
        compiled(X)
        assert count.took() == (1, 0)
        for _ in range(3):
            for tensor in (model.conv.weight, model.norm.running_var, model.head.weight):
                tensor.mul_(1.3)
                compiled(X)
                unfolded = tensor is model.head.weight and inner == "eager"
                assert count.took() == (0, 0 if unfolded else 1)
                assert relative(compiled(X), model(X)) < 1e-5
                assert count.took() == (0, 0)
        model.load_state_dict(Net(3).state_dict(), assign=True)
        compiled(X)
        assert count.took() == (0, 1)


def test_a_state_never_changes() -> None:
    """A call that is under way goes on with the weights that it began with."""
    seen: list[list[torch.Tensor]] = []

    def inner(graph: torch.fx.GraphModule, example_inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            seen.append(list(args[-4:]))
            return graph(*args)

        return run

    model = Net()
    options = {"inner": inner, "first_answer": "off"}
    compiled = torch.compile(model, backend="bnfx", options=options)
    with torch.no_grad():
        compiled(X)
        kept = [weight.clone() for weight in seen[0]]
        for _ in range(2):
            model.conv.weight.mul_(-1.1)
            assert relative(compiled(X), model(X)) < 1e-5
    assert not torch.equal(seen[0][0], seen[1][0])
    assert all(map(torch.equal, seen[0], kept))


@pytest.mark.slow
def test_frozen_is_frozen_again_once_weights_settle() -> None:
    model = Net()
    compiled = torch.compile(model, backend="bnfx", options={"weights": "frozen"})
    with torch.no_grad(), counted() as count:
        compiled(X)
        assert count.took() == (1, 0)
        model.norm.weight.mul_(-1.5)
        assert relative(compiled(X), model(X)) < 1e-5
        assert count.took() == (1, 1), "the live body"
        for _ in range(QUIET_CALLS - 2):
            compiled(X)
        assert count.took() == (0, 0)
        assert relative(compiled(X), model(X)) < 1e-5
        assert count.took() == (1, 0), "frozen again"
        for _ in range(3):
            assert relative(compiled(X), model(X)) < 1e-5
        assert count.took() == (0, 0)
        model.norm.weight.mul_(-1.5)
        assert relative(compiled(X), model(X)) < 1e-5
        assert count.took() == (0, 1), "the live body is there by now"


@pytest.mark.slow
def test_a_train_and_evaluate_loop_is_no_compile_storm() -> None:
    model = Net()
    compiled = torch.compile(model, backend="bnfx", options={"weights": "frozen"})
    total = 0
    with torch.no_grad(), counted() as count:
        for epoch in range(30):
            model.conv.weight.mul_(1.02)
            for _ in range(24 if epoch else 400):
                compiled(X)
            assert relative(compiled(X), model(X)) < 1e-5
            total += count.took()[0]
        assert total <= 2 + MAX_REFREEZES
        for _ in range(3 * QUIET_CALLS * 4**MAX_REFREEZES):
            compiled(X)
            if count.compiles > MAX_REFREEZES:
                break
        assert total + count.took()[0] <= 2 + MAX_REFREEZES


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["live", "frozen"])
def test_instances_in_turn_are_not_folded_in_turn(weights: str) -> None:
    models = [Net(seed) for seed in range(3)]
    compiled = torch.compile(forward, backend="bnfx", options={"weights": weights})
    with torch.no_grad(), counted() as count:
        for model in models:
            assert relative(compiled(model, X), model(X)) < 1e-5
        compiles, fills = count.took()
        assert fills == 2, "one was folded when it was compiled"
        assert compiles <= 2
        for model in itertools.chain(models, models):
            assert relative(compiled(model, X), model(X)) < 1e-5
        assert count.took()[1] == 0
        models[1].norm.bias.add_(1)
        for model in models:
            assert relative(compiled(model, X), model(X)) < 1e-5
        assert count.took()[1] == 1


def test_a_route_that_signs_forbid_by_now() -> None:
    """The map cannot cross the pool with a negative scale: another form of the graph serves."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.norm = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4)
            self.last, self.last_norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last_norm(self.last(self.norm(self.pool(self.conv(x))).relu()))

    model = randomise(Pooled()).eval()
    graphs: list[torch.fx.GraphModule] = []

    def inner(graph: torch.fx.GraphModule, example_inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def norms() -> list[int]:
        names = ([getattr(n.target, "__name__", "") for n in g.graph.nodes] for g in graphs)
        return [sum("batch_norm" in name for name in some) for some in names]

    compiled = torch.compile(model, backend="bnfx", options={"inner": inner})
    with torch.no_grad(), counted() as count:
        model.norm.weight.abs_()
        for _ in range(3):
            assert relative(compiled(X), model(X)) < 1e-5
            model.norm.weight.neg_()
        assert norms() == [0, 0], "neither form is the original graph"
        assert count.compiles == 2
        for _ in range(4):
            model.norm.weight.neg_()
            assert relative(compiled(X), model(X)) < 1e-5
        assert count.compiles == 2


def test_refresh_is_for_one_model() -> None:
    models = [Net(0), Net(1)]
    compiled = [
        torch.compile(model, backend="bnfx", options={"inner": "eager"}) for model in models
    ]
    with torch.no_grad(), counted() as count:
        for fast in compiled:
            fast(X)
        count.took()
        models[0].second.weight.detach().numpy()[1, 2, 1, 1] += 5.0
        bnfx.refresh(compiled[0])
        for fast, model in zip(compiled, models, strict=True):
            assert relative(fast(X), model(X)) < 1e-5
        assert count.took()[1] == 1
        bnfx.refresh()
        for fast in compiled:
            fast(X)
        assert count.took()[1] == 2
    with pytest.raises(TypeError, match="uncompiled Net"):
        bnfx.refresh(models[0])


def test_content_can_be_checked_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = randomise(nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64))).eval()
    x = torch.randn(1, 64, 5, 5)
    compiled = torch.compile(model, backend="bnfx", options={"inner": "eager"})
    monkeypatch.setenv("BNFX_CHECK_CONTENT", "1")
    with torch.no_grad():
        compiled(x)
        for at in range(3):
            model[0].weight.data[at, 3, 1, 1] += 5.0
            assert relative(compiled(x), model(x)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["live", pytest.param("frozen", marks=pytest.mark.heavy)])
def test_one_model_in_many_places(weights: str) -> None:
    """Static and dynamic shapes, several compiled copies, grad modes, reset, deepcopy, pickle."""
    model = Net()
    # Constants are Inductor's; what is live is there with any inner compiler.
    options = {"weights": weights, "inner": "inductor" if weights == "frozen" else "aot_eager"}
    compiled = [
        torch.compile(model, backend="bnfx", options=options, dynamic=dynamic)
        for dynamic in (False, True)
    ]

    def check(bound: float = 1e-5) -> None:
        for fast, size in itertools.product(compiled, (9, 11)):
            x = torch.randn(2, 3, size, size)
            for mode in (torch.no_grad(), torch.inference_mode()):
                with mode:
                    assert relative(fast(x), model(x)) < bound

    check()
    with torch.no_grad():
        model.norm.weight.mul_(-1.5)
    check()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    with torch.no_grad():
        twin.norm.weight.mul_(3)
        assert relative(torch.compile(twin, backend="bnfx", options=options)(X), twin(X)) < 1e-5
    torch._dynamo.reset()
    with torch.no_grad():
        model.conv.bias.add_(0.5)
    check()


@pytest.mark.parametrize("cached", [True, False])
def test_cached_code_holds_no_weights(cached: bool, tmp_path: Any, monkeypatch: Any) -> None:
    """A second model hits the code of the first one, and answers with its own weights."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    counters = torch._dynamo.utils.counters["aot_autograd"]
    counters.clear()
    config = {"fx_graph_cache": cached, "fx_graph_remote_cache": False}
    with torch.no_grad(), torch._inductor.config.patch(config):
        for seed in range(2):
            model = Net(seed)
            torch._dynamo.reset()
            compiled = torch.compile(model, backend="bnfx", options={"weights": "live"})
            assert relative(compiled(X), model(X)) < 1e-5
            model.second.weight.mul_(-2)
            assert relative(compiled(X), model(X)) < 1e-5
    assert counters["autograd_cache_hit"] == cached


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune-no-cudagraphs"])
def test_modes_of_torch_compile(mode: str) -> None:
    model = Net()
    compiled = torch.compile(model, backend="bnfx", mode=mode)
    with torch.no_grad():
        for _ in range(3):
            assert relative(compiled(X), model(X)) < 1e-5
            model.norm.weight.mul_(-1.2)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("weights", ["live", "frozen"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(weights: str, dtype: torch.dtype) -> None:
    model, x = Net().to(dtype), X.to(dtype)
    compiled = torch.compile(model, backend="bnfx", options={"weights": weights})
    with torch.no_grad():
        for _ in range(3):
            out = compiled(x)
            assert out.dtype == dtype
            assert relative(out, model(x)) < (4e-2 if dtype == torch.bfloat16 else 4e-3)
            model.norm.weight.mul_(-1.2)


@pytest.mark.slow
def test_tied_weights_shared_modules_and_integers() -> None:
    """A convolution called twice, a weight in two layers, an index that is a buffer."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.linear, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
            self.other.weight = self.linear.weight
            self.register_buffer("index", torch.tensor([2, 0, 1]))
            self.register_buffer("factor", torch.tensor([1.5]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.two(self.conv(self.one(self.conv(x)).relu())).mean((2, 3))
            table = self.linear.weight[self.index] * self.factor
            return self.other(self.linear(x).relu()) + x @ table

    model = randomise(Tied()).eval()
    compiled = torch.compile(model, backend="bnfx", options={"weights": "live"})
    with torch.no_grad():
        writes = (
            lambda: model.conv.weight.mul_(-1.5),
            lambda: model.linear.weight.add_(0.5),
            lambda: model.index.copy_(torch.tensor([0, 0, 2])),
            lambda: model.factor.mul_(-3),
            lambda: model.two.running_mean.add_(1),
        )
        for write in writes:
            before = model(X)
            assert relative(compiled(X), before) < 1e-5
            write()
            assert relative(model(X), before) > 1e-3
            assert relative(compiled(X), model(X)) < 1e-5
