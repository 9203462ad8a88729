"""Outputs lie in memory as they do without a compiler: where one is written, others see it or not.

Each form is called, all that it returned is overwritten, and it is called again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from inner.output_forms import FEW, FORMS, LEFT, Form
from support import randomise
from torch import fx, nn
from torch.utils import _pytree as pytree

from bnfx.passes.fx.memory.output_memory import OutputMemory

SLOW = pytest.mark.slow
FEW_COPIES = ("equal values", "two copies", "the input, computed", "a part of the input")


class Net(nn.Module):
    def __init__(self, form: Form) -> None:
        super().__init__()
        self.c, self.b, self.c2 = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)
        self.l, self.w = nn.Linear(6, 6), nn.Parameter(torch.randn(6, 6))
        self.register_buffer("k", torch.randn(5))
        self.form = form

    def forward(self, x: torch.Tensor) -> Any:
        return self.form(self.b(self.c(x)), x, self)


def network(form: Form) -> nn.Module:
    torch.manual_seed(0)
    return randomise(Net(form)).double().eval()


def merging(module: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
    """A compiler that gives equal values one memory, and each other value one of its own."""

    def run(*args: Any) -> Any:
        there = [each for each in args if isinstance(each, torch.Tensor)]
        given = {memory(each) for each in there}
        outputs = []
        for value in module.forward(*args):
            if isinstance(value, torch.Tensor) and memory(value) not in given:
                same = (each for each in there if equal(each, value))
                value = next(same, value.clone())
                there.append(value)
            outputs.append(value)
        return tuple(outputs)

    return run


def memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (one.dtype, one.stride()) == (other.dtype, other.stride()) and torch.equal(one, other)


def answers(model: nn.Module, call: Callable[..., Any], form: torch.memory_format) -> Any:
    """Two answers, of which the first was written over; how it lay in memory; and gradients."""
    saved = {name: value.detach().clone() for name, value in model.state_dict().items()}
    first, x = called(call, form)
    held = [x, *model.parameters(), *model.buffers()]
    outputs = [each for each in pytree.tree_leaves(first) if isinstance(each, torch.Tensor)]
    together = [[memory(one) == memory(other) for other in [*outputs, *held]] for one in outputs]
    apart = [
        [one.data_ptr() - other.data_ptr() for other in outputs if memory(one) == memory(other)]
        for one in outputs
    ]
    names = [[one is other for other in [*outputs, *held]] for one in outputs]
    strides = [
        [stride for stride, size in zip(each.stride(), each.shape, strict=True) if size > 1]
        for each in outputs
    ]
    numbers = copied(first)
    asked = torch.is_grad_enabled()
    sums = [each.sum() for each in outputs if asked and each.requires_grad]
    gradients = (
        torch.autograd.grad(sum(sums), list(model.parameters()), allow_unused=True) if sums else ()
    )
    with torch.no_grad():
        for each in outputs:
            if 0 not in each.stride():
                each.zero_()
        model.load_state_dict(saved)
    graded = [each.requires_grad for each in outputs if asked]
    return (numbers, copied(called(call, form)[0]), gradients), (
        graded,
        together,
        names,
        apart,
        strides,
    )


def copied(values: Any) -> Any:
    return pytree.tree_map_only(torch.Tensor, lambda each: each.detach().clone(), values)


def called(call: Callable[..., Any], form: torch.memory_format) -> tuple[Any, torch.Tensor]:
    x = torch.linspace(-1, 1, 384, dtype=torch.float64).reshape(2, 3, 8, 8).to(memory_format=form)
    return call(x), x


def check(
    name: str,
    inner: Any = "inductor",
    gradients: bool = False,
    form: torch.memory_format = torch.contiguous_format,
    **options: Any,
) -> None:
    model = network({**FORMS, **LEFT}[name])
    dynamic = options.pop("dynamic", None)
    with torch.set_grad_enabled(gradients), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch: as_strided in compiled code
        warnings.simplefilter("ignore", FutureWarning)  # of torch: what its own lowerings call
        expected, lay = answers(model, model, form)
        options = {"inner": inner, **options}
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="bnfx", options=options, dynamic=dynamic)
        numbers, lies = answers(model, compiled, form)
    # What requires gradients is autograd's affair, and torch's: its views may lie otherwise.
    assert lies[:1] == lay[:1] if gradients and name not in FEW_COPIES else lies == lay
    torch.testing.assert_close(numbers, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", list(FORMS))
def test_no_compiler_can_get_memory_wrong(name: str, dynamic: bool) -> None:
    check(name, merging, dynamic=dynamic)


@pytest.mark.parametrize("name", list(FEW))
def test_inductor_with_packed_weights(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", list(LEFT))
def test_what_is_left_to_compilers(name: str) -> None:
    check(name, "aot_eager")


@pytest.mark.parametrize("name", [*FORMS, *LEFT])
def test_gradients(name: str) -> None:
    check(name, "aot_eager", gradients=True)


@pytest.mark.parametrize("name", ["a view", "detached", *FEW_COPIES])
def test_inductor_with_gradients(name: str) -> None:
    check(name, gradients=True)


@SLOW
@pytest.mark.parametrize("name", list(FORMS))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weights": "frozen"},
        {"weights": "traced"},
        {"rules": "none"},
        {"dynamic": True},
        {"gradients": True},
        {"gradients": True, "dynamic": True},
    ],
    ids=str,
)
def test_inductor(name: str, options: dict[str, Any]) -> None:
    check(name, **options)


def test_the_merging_compiler_is_caught_without_bnfx() -> None:
    """The table can fail: each of these goes wrong where nothing keeps the memory of outputs."""
    for name in FEW:
        if name in ("what fills a concatenation",):
            continue
        model = network(FORMS[name])
        with torch.no_grad():
            _, lay = answers(model, model, torch.contiguous_format)
            torch._dynamo.reset()
            _, lies = answers(model, torch.compile(model, backend=merging), torch.contiguous_format)
        assert lies != lay, name


def test_what_returns_one_value_is_called_directly() -> None:
    """Nothing is paid for by models that return what cannot be mistaken."""
    seen = []

    def note(module: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        seen.append(OutputMemory.of(module))
        return module.forward

    with torch.no_grad():
        torch.compile(network(lambda y, x, m: y.flatten(1)), backend=note)(
            torch.randn(2, 3, 8, 8, dtype=torch.float64)
        )
    (memory,) = seen
    assert memory.is_kept
