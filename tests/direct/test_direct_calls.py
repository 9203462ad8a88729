"""Which calls go straight to the graph, and that all of them are right."""

from __future__ import annotations

import copy
import pickle
import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from direct_models import check, compiled
from support import randomise
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import bnfx
from bnfx.direct.watched import Watched


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
        randomise(self, 1).double().eval().requires_grad_(False)

    def forward(self, x: torch.Tensor, y: Any = None, *, factor: float = 1.0) -> Any:
        found = self.norm(self.conv(x)) * factor
        if y is None:
            return found
        if isinstance(y, torch.Tensor):
            return found + y[:, :1, :1, :1]
        return {"found": found, "more": [x, (found.relu(), None)], "y": y}


def image(*size: int) -> torch.Tensor:
    return torch.randn(*(size or (2, 2, 6, 6)), dtype=torch.float64)


@pytest.fixture
def model() -> Small:
    return Small()


@pytest.fixture
def call(model: Small) -> Iterator[Any]:
    """Served straight already."""
    with torch.no_grad():
        found = compiled(model)
        check(found, model, image())
        yield found


INPUTS: dict[str, Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "other numbers": lambda: ((image(),), {}),
    "another size": lambda: ((image(1, 2, 9, 5),), {}),
    "channels last": lambda: ((image().contiguous(memory_format=torch.channels_last),), {}),
    "a view": lambda: ((image(2, 2, 6, 12)[..., ::2],), {}),
    "needs gradients": lambda: ((image().requires_grad_(),), {}),
    "a parameter": lambda: ((nn.Parameter(image()),), {}),
    "by keyword": lambda: ((), {"x": image()}),
    "a number": lambda: ((image(),), {"factor": 2.0}),
    "two tensors": lambda: ((image(), image()), {}),
    "one tensor twice": lambda: ((image(),) * 2, {}),
    "None": lambda: ((image(), None), {}),
    "a list": lambda: ((image(), [1, 2]), {}),
    "text": lambda: ((image(), "text"), {"factor": -1.0}),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name: str, call: Any, model: Small, direct: list[int]) -> None:
    args, kwargs = INPUTS[name]()
    check(call, model, *args, **kwargs)
    assert direct, call._bnfx_calls.why_not
    check(call, model, image())
    if len(args) == 2 and isinstance(args[1], torch.Tensor):
        check(call, model, args[0], args[0])
        check(call, model, *args)


def test_each_answer_is_a_new_one(call: Any, model: Small, direct: list[int]) -> None:
    x = image()
    check(call, model, x, "y")
    first, second = call(x, "y"), call(x, "y")
    assert len(direct) >= 2
    assert first is not second
    assert first["more"] is not second["more"]
    assert first["more"][0] is x
    assert first["found"].data_ptr() != second["found"].data_ptr()


class Ignored(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Negated(TorchDispatchMode):
    """Whatever a multiplication gives is negated."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def default_dtype() -> AbstractContextManager[Any]:
    class Set:
        def __enter__(self) -> None:
            torch.set_default_dtype(torch.float64)

        def __exit__(self, *_: object) -> None:
            torch.set_default_dtype(torch.float32)

    return Set()  # type: ignore[return-value]


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "gradients": torch.enable_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "device": lambda: torch.device("cpu"),
    "function mode": Ignored,
    "dispatch mode": Negated,
    "flop counter": lambda: FlopCounterMode(display=False),
    "dtype": default_dtype,
    "profiler": lambda: torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU],
        acc_events=True,  # torch 2.11 warns without
    ),
    "force_eager": lambda: torch.compiler.set_stance("force_eager"),
    "fail_on_recompile": lambda: torch.compiler.set_stance("fail_on_recompile"),
}


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")  # the flop counter's hooks
@pytest.mark.parametrize("name", MODES)
def test_modes(name: str, call: Any, model: Small, direct: list[int]) -> None:
    x = image()
    with MODES[name]():
        check(call, model, x)
    if name in ("force_eager", "fail_on_recompile", "dispatch mode", "flop counter"):
        assert not direct
    check(call, model, x)
    assert direct


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")
def test_flops_are_counted(call: Any, model: Small) -> None:
    found = list[int]()
    for each in (model, call):
        with FlopCounterMode(display=False) as counter:
            each(image())
        found.append(counter.get_total_flops())
    assert found[0] == found[1] > 0


def test_training_is_left_to_torch(call: Any, model: Small, direct: list[int]) -> None:
    model.train()
    twin = copy.deepcopy(model)
    for _ in range(3):
        x = image()
        torch.testing.assert_close(call(x), twin(x))
        torch.testing.assert_close(model.norm.running_var, twin.norm.running_var)
    assert not direct
    call.eval()
    check(call, model, image())
    assert direct


def test_eval_before_each_call(call: Any, model: Small, direct: list[int]) -> None:
    for _ in range(3):
        call.eval()(image())
    assert len(direct) == 3


def test_within_a_larger_graph(call: Any, model: Small, direct: list[int]) -> None:
    def twice(x: torch.Tensor) -> torch.Tensor:
        return call(x) * 2 + 1

    x = image()
    whole = torch.compile(twice, backend="eager", fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(whole(x), model(x) * 2 + 1)
    assert not direct


def test_it_is_true(call: Any) -> None:
    assert call
    assert not bnfx.compile(nn.Sequential().eval())


def test_between_two_graphs(call: Any, model: Small) -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        x = x + 1
        torch._dynamo.graph_break()
        x = call(x)
        torch._dynamo.graph_break()
        return x * 2

    x = image()
    whole = torch.compile(broken, backend="eager")
    for _ in range(3):
        torch.testing.assert_close(whole(x), model(x + 1) * 2)


def test_after_a_reset(call: Any, model: Small, direct: list[int]) -> None:
    """What only a new compilation sees."""
    torch._dynamo.reset()
    before = Small.forward
    try:
        Small.forward = lambda self, x: self.norm(self.conv(x)) * 5  # type: ignore
        check(call, model, image())
    finally:
        Small.forward = before  # type: ignore[method-assign]
    check(call, model, image())


def test_another_backend_has_its_own(call: Any, model: Small, direct: list[int]) -> None:
    other = torch.compile(model, backend="eager")
    x = image(2, 2, 7, 7)
    other(x), other(x)
    check(call, model, x)
    assert direct


def test_copies(call: Any, model: Small, direct: list[int]) -> None:
    twin = copy.deepcopy(call)
    with torch.no_grad():
        twin._orig_mod.norm.weight.mul_(-1.0)
    check(twin, twin._orig_mod, image())
    check(call, model, image())
    assert len(direct) >= 4


@pytest.mark.parametrize("first", [compiled, torch.compile])
def test_what_was_compiled_before(first: Any, model: Small, direct: list[int]) -> None:
    with torch.no_grad():
        call = compiled(first(model))
        check(call, model, image())
    assert direct


def test_two_models_of_one_class(call: Any, model: Small, direct: list[int]) -> None:
    other = Small()
    with torch.no_grad():
        other.conv.weight.neg_()
    second = compiled(other)
    for _ in range(3):
        check(second, other, image())
        check(call, model, image())
    assert len(direct) >= 12


def test_threads(call: Any, model: Small, direct: list[int]) -> None:
    wrong = list[str]()

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _ in range(50):
                x = torch.randn(2, 2, 6, 6, dtype=torch.float64, generator=generator)
                if not torch.allclose(call(x), model(x)):
                    wrong.append("direct")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(direct) >= 150


def test_a_graph_break_is_torchs(direct: list[int]) -> None:
    class Broken(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            x = self.conv(x)
            torch._dynamo.graph_break()
            return self.norm(x)

    model = Broken()
    with torch.no_grad():
        call = compiled(model)
        check(call, model, image())
    assert not direct
    assert call._bnfx_calls.why_not


def test_effects_are_torchs(direct: list[int]) -> None:
    class Counting(Small):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            self.calls += 1
            return self.norm(self.conv(x))

    model = Counting()
    with torch.no_grad():
        call = compiled(model)
        for count in range(1, 6):
            call(image())
            assert model.calls == count
    assert not direct


def test_sequential(direct: list[int]) -> None:
    model = randomise(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))).double().eval()
    with torch.no_grad():
        call = compiled(model)
        check(call, model, image())
        assert direct
        model.append(nn.ReLU())
        check(call, model, image())


def test_global_hooks(call: Any, model: Small) -> None:
    seen = list[str]()
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, out: seen.append(type(module).__name__)
    )
    with handle, pytest.warns(UserWarning, match="global hooks"):
        call(image())
    assert "CompiledModule" in seen


def test_what_it_is(model: Small) -> None:
    call = compiled(model)
    assert isinstance(call, nn.Module)
    assert call.norm is model.norm
    assert set(call.state_dict()) == set(torch.compile(model, backend="bnfx").state_dict())
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, not function"):
        bnfx.compile(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(bnfx.OptionError, match="iner"):
        bnfx.compile(model, options={"iner": "eager"})(image())
    assert isinstance(pickle.dumps(model), bytes)


def test_memory_of_what_was_replaced_is_let_go(call: Any, model: Small) -> None:
    import gc
    import weakref

    gone = weakref.ref(model.conv.weight.untyped_storage())
    model.conv.weight = nn.Parameter(torch.ones_like(model.conv.weight), requires_grad=False)
    check(call, model, image())
    gc.collect()
    assert gone() is None


def test_what_forward_is_given_besides_its_arguments(direct: list[int]) -> None:
    """Variables around it, and its defaults: they are locals of its frame, which nobody guards."""
    factor = 2.0

    class Scaled(Small):
        def forward(self, x: torch.Tensor, y: float = 1.0, *, factor_: float = 1.0) -> Any:
            return self.norm(self.conv(x)) * factor * y * factor_

    model = Scaled()
    forward: Any = Scaled.forward
    with torch.no_grad():
        call = compiled(model)
        for _ in range(2):
            check(call, model, image())
            before = len(direct)
            call(image())
            assert len(direct) == before + 1, call._bnfx_calls.why_not
            factor += 1
            check(call, model, image())
            forward.__defaults__ = (3.0 + factor,)
            check(call, model, image())
            forward.__kwdefaults__ = {"factor_": 5.0 + factor}
            check(call, model, image())
            forward.__kwdefaults__["factor_"] = -factor
            check(call, model, image())


@pytest.mark.slow
def test_open_sizes(direct: list[int]) -> None:
    class Branching(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            found = self.norm(self.conv(x)).flatten(2) * x.shape[0] + x.shape[3]
            return found if x.shape[0] > 4 else found.sum(-1)

    model = Branching()
    with torch.no_grad():
        call = bnfx.compile(model, dynamic=True, options={"inner": "eager"})
        for size in (2, 3, 4, 5, 6, 3, 7):
            check(call, model, image(size, 2, 6, size + 4))
        before = len(direct)
        for size in (3, 6, 4, 9):
            for _ in range(2):
                torch.testing.assert_close(
                    *(f(x) for x in [image(size, 2, 7, 9)] for f in (call, model))
                )
    assert len(direct) == before + 8, call._bnfx_calls.why_not


class Table(Small):
    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self.table = kind()
        self.table.update(a=2.0)

    def forward(self, x: torch.Tensor) -> Any:  # type: ignore[override]
        return self.norm(self.conv(x)) * self.table["a"]


@pytest.mark.parametrize("kind", [OrderedDict, lambda: defaultdict(float), Counter])
def test_dicts_of_other_classes(kind: Any) -> None:
    model = Table(kind)
    with torch.no_grad():
        call = compiled(model)
        check(call, model, image())
        model.table["a"] = 3.0
        check(call, model, image())


@pytest.mark.parametrize("name", ["_call_impl", "_wrapped_call_impl", "forward"])
def test_what_lies_between_a_call_and_forward(name: str, model: Small, call: Any) -> None:
    setattr(model, name, lambda x: x * 100)
    x = image()
    for _ in range(4):
        expected = torch.compile(model, backend="bnfx", options={"inner": "eager"})(x)
        torch.testing.assert_close(call(x), expected)


def test_other_code_of_forward(direct: list[int]) -> None:
    class Doubled(Small):
        def forward(self, x: torch.Tensor) -> Any:  # type: ignore[override]
            return self.norm(self.conv(x)) * 2

    def tripled(self: Any, x: torch.Tensor) -> Any:
        return self.norm(self.conv(x)) * 3

    model = Doubled()
    with torch.no_grad():
        call = compiled(model)
        check(call, model, image())
        assert direct
        function: Any = Doubled.forward
        function.__code__ = tripled.__code__
        check(call, model, image())


def test_a_list_that_stands_twice_in_the_answer_is_one() -> None:
    class Twice(Small):
        def forward(self, x: torch.Tensor) -> Any:  # type: ignore[override]
            found = [self.norm(self.conv(x))]
            return {"features": found, "all": found}

    model = Twice()
    with torch.no_grad():
        call = compiled(model)
        check(call, model, image())
        answer = call(image())
    assert answer["features"] is answer["all"]


@pytest.mark.parametrize("late", [False, True])
def test_what_another_thread_assigns_meanwhile(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Just before what is watched is noted down, or just behind."""

    class Scaled(Small):
        factor = 1.5

        def forward(self, x: torch.Tensor) -> Any:  # type: ignore[override]
            return self.norm(self.conv(x)) * self.factor

    model = Scaled()
    with torch.no_grad():
        call = compiled(model)
        for factor in (3.0, 1.5):
            model.factor = factor
            check(call, model, image())
        note = Watched.holds

        def assign_and_note(self: Watched) -> Any:
            if not late:
                model.factor = 3.0
            noted = note(self)
            if late:
                model.factor = 3.0
            return noted

        monkeypatch.setattr(Watched, "holds", assign_and_note)
        model.factor, model.unused = 1.5, 1
        call(image())
        assert model.factor == 3.0
        monkeypatch.setattr(Watched, "holds", note)
        check(call, model, image())
