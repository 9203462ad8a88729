"""Traces of models that change what is not in the graph, or ask in places that no source shows."""

from __future__ import annotations

import functools
import gc
import operator
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import python_module
from torch import nn
from traced_forms import Forms, Net, T, X, check_refused, refused

import bnfx
from bnfx.folding.capturing.symbolic import trace

LOG: list[int] = []
ALIAS = [None]
SAME = ALIAS
changes, asks, values = Forms(), Forms(), Forms()


@changes
def dilations(m: Any, x: Any) -> Any:
    before, outputs = m.c.dilation, []
    for rate in (1, 2):
        m.c.dilation = (rate, rate)
        outputs.append(m.c(x))
    m.c.dilation = before
    return sum(outputs)


@changes
def a_slope(m: Any, x: Any) -> Any:
    m.act.negative_slope = 0.5
    y = m.act(m.c(x))
    m.act.negative_slope = 0.1
    return y


@changes
def padding_in_a_list(m: Any, x: Any) -> Any:
    m.pad[0] = 2
    y = m.padded(x)
    m.pad[0] = 1
    return y


@changes
def a_log(m: Any, x: Any) -> Any:
    LOG.append(1)
    return m.c(x) * (2 if len(LOG) > 4 else 3)


@changes
def a_log_in_a_default(m: Any, x: Any) -> Any:
    return m.c(x) * counted()


def counted(log: list[int] = []) -> int:  # noqa: B006
    log.append(1)
    return 2 if len(log) > 4 else 3


@changes
def a_log_of_a_class(m: Any, x: Any) -> Any:
    m.log.append(1)
    return m.c(x) * (2 if len(m.log) > 4 else 3)


@changes
def a_log_deep_in_an_attribute(m: Any, x: Any) -> Any:
    m.rows["log"].append(1)
    return m.c(x) * (2 if len(m.rows["log"]) > 4 else 3)


@changes
def a_counter_in_an_object(m: Any, x: Any) -> Any:
    count(m.space)
    return m.c(x) * (2 if m.space.count > 4 else 3)


def count(space: Any) -> None:
    space.count += 1


@changes
def a_counter_in_a_tensor(m: Any, x: Any) -> Any:
    m.count.add_(1)
    return m.c(x) * m.count


@changes
def a_counter_in_a_module_that_is_none_of_its(m: Any, x: Any) -> Any:
    step(m.others[0])
    return m.c(x) * (2 if m.others[0].n > 4 else 3)


def step(other: Any) -> None:
    other.n += 1


@changes
def a_buffer_under_another_name(m: Any, x: Any) -> Any:
    m.steps.add_(1)
    return m.c(x) * float(m.held[0])


class Changing(Net):
    """Has what code may change."""

    log: list[int] = []  # noqa: RUF012

    def __init__(self, way: Any) -> None:
        super().__init__(way)
        self.act, self.pad = nn.LeakyReLU(0.1), [1, 1]
        self.padded = nn.Conv2d(3, 3, 3)
        self.padded.padding = self.pad  # type: ignore[assignment]
        self.rows = {"log": []}  # type: ignore[dict-item]
        self.space, self.count = types.SimpleNamespace(count=0), torch.zeros(1)
        self.others = [Other()]
        self.register_buffer("steps", torch.zeros(1))
        self.held = [self.steps]


class Other(nn.Module):
    n = 0


@pytest.mark.parametrize("name", changes)
def test_what_outlives_a_call_is_not_changed(name: str) -> None:
    LOG.clear()
    check_refused(Changing(changes[name]).eval())


@torch.no_grad()
def picked(v: Any) -> Any:
    return v


asks["a decorated function's answer"] = lambda m, x: m.c(x) * (2 if picked(x) is None else 3)
asks["an op's answer"] = lambda m, x: m.c(x) * (2 if type(F.relu(x)) is T else 3)
asks["a container's answer"] = lambda m, x: m.c(x) * (2 if m.nothing.forward(x) is None else 3)
asks["a minimum's default"] = lambda m, x: m.c(x) * (2 if min((), default=x) is None else 3)
asks["a sum's start"] = lambda m, x: m.c(x) * (2 if type(sum((), start=x)) is T else 3)
asks["bytes"] = lambda m, x: m.c(x) * len(b"%r" % (x.dim(),))
asks["a class by default"] = lambda m, x: (
    m.c(x) * (lambda v, kind=type: 2 if kind(v) is T else 3)(x)
)
asks["a text by default"] = lambda m, x: m.c(x) * (lambda v, text=str: len(text(v)))(x)
asks["an operator by default"] = lambda m, x: (
    m.c(x) * (lambda v, same=operator.is_: 2 if same(v, None) else 3)(x)
)
asks["an attribute of a function"] = lambda m, x: m.c(x) * (2 if picked.kind(x) is T else 3)  # type: ignore[attr-defined]
asks["a slot"] = lambda m, x: m.c(x) * (2 if SLOT.kind(x) is T else 3)
asks["a module that is none of its"] = lambda m, x: m.c(x) * (2 if m.helper[0].kind(x) is T else 3)
asks["an attribute of a tensor"] = lambda m, x: m.c(x) * (2 if TENSOR.kind(x) is T else 3)  # type: ignore[attr-defined]
asks["of an error"] = lambda m, x: m.c(x) * (2 if ERROR.args[0](x) is T else 3)
asks["an index"] = lambda m, x: m.c(x) * (2 if m.indexed[x] is T else 3)
asks["the mode by a partial"] = lambda m, x: (
    m.c(x) * (2 if functools.partial(torch.is_grad_enabled)() else 3)
)
asks["the mode until"] = lambda m, x: m.c(x) * (2 if next(iter(torch.is_grad_enabled, 2)) else 3)
asks["the mode before"] = lambda m, x: m.c(x) * (2 if torch.set_grad_enabled(False).prev else 3)
asks["strides"] = lambda m, x: torch.as_strided(m.c(x), (2, 3), (1, 2))
asks["what takes another's part"] = lambda m, x: m.c(x) * len([torch.overrides.has_torch_function])
picked.kind = type  # type: ignore[attr-defined]
TENSOR, ERROR = torch.ones(1), ValueError(type)
TENSOR.kind = type  # type: ignore[attr-defined]


class Slot:
    __slots__ = ("kind",)

    def __init__(self) -> None:
        self.kind = type


SLOT = Slot()


class Helper(nn.Module):
    kind = type


class Indexed(nn.Module):
    __getitem__ = staticmethod(type)


class Asking(Net):
    def __init__(self, way: Any) -> None:
        super().__init__(way)
        self.nothing, self.helper, self.indexed = nn.Sequential(), [Helper()], Indexed()


@pytest.mark.parametrize("name", asks)
def test_functions_in_c_are_not_got_at(name: str) -> None:
    check_refused(Asking(asks[name]).eval())


@values
def a_list_by_two_names(m: Any, x: Any) -> Any:
    m.numbers[0] = x
    count = 2 if m.same[0] is None else 3
    m.numbers[0] = None
    return m.c(x) * count


@values
def a_global_by_two_names(m: Any, x: Any) -> Any:
    ALIAS[0] = x
    count = 2 if SAME[0] is None else 3
    ALIAS[0] = None
    return m.c(x) * count


@values
def one_of_two_lists(m: Any, x: Any) -> Any:
    held = m.numbers if m.flag else []
    held.append(x)
    count = len([1 for each in m.numbers if each is None])
    held.pop()
    return m.c(x) * (count + 1)


@values
def a_module_in_the_table(m: Any, x: Any) -> Any:
    m._modules["none"] = x
    count = 2 if m.none is None else 3
    m._modules["none"] = None
    return m.c(x) * count


@values
def two_objects(m: Any, x: Any) -> Any:
    has = lambda o: 2 if o.x is None else 3  # noqa: E731
    return m.c(x) * has(types.SimpleNamespace(x=None)) * has(types.SimpleNamespace(x=x))


@values
def a_name_of_a_comprehension(m: Any, x: Any) -> Any:
    def inner() -> Any:
        count = [x * 2 for x in (1, 2)]
        return sum(count) * (2 if x is None else 3)

    return m.c(x) * inner()


@values
def a_function_that_is_another(m: Any, x: Any) -> Any:
    @lambda function: function()
    def chosen() -> Any:
        return x

    return m.c(x) * (2 if chosen is None else 3)


@values
def an_annotation(m: Any, x: Any) -> Any:
    seen: list[Any] = []

    def inner(v: seen.append(x is None)) -> Any:  # type: ignore[valid-type]
        return v

    return inner(m.c(x)) * (2 + len([each for each in seen if each]))


@values
def shifted(m: Any, x: Any) -> Any:
    y = (x * 4).int()
    z = y
    y <<= 1
    return m.c(x) * z.float()


@values
def unpacked_in_c(m: Any, x: Any) -> Any:
    first, second = map(sum, (x, x))
    return m.c(x) * (first + second)


class Valued(Net):
    def __init__(self, way: Any) -> None:
        super().__init__(way)
        self.numbers = self.same = [None]  # type: ignore[assignment, list-item]


@pytest.mark.parametrize("name", values)
def test_values_are_those_of_the_call(name: str) -> None:
    """There is no trace, or a right one, also for a batch of another size."""
    model = Valued(values[name]).eval()
    try:
        graph = bnfx.fold(model, keep="graph")
    except bnfx.CaptureError:
        return
    with torch.no_grad():
        for x in (X, torch.cat([X, X])[1:]):
            torch.testing.assert_close(graph(x), model(x))


def test_hooks_of_a_block_are_not_traced() -> None:
    model = Net(lambda m, x: m.part(x)).eval()
    model.part = Net(lambda m, x: m.c(x)).eval()
    model.part.register_forward_hook(lambda module, args, output: args[0])
    with pytest.raises(bnfx.CaptureError, match="part has hooks"):
        bnfx.fold(model, keep="graph")


def test_a_keyword_alone_is_an_argument() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(3, 3, 1)

        def forward(self, x: Any, *more: Any, scale: float = 2.0) -> Any:
            return self.c(x) * scale

    model = Scaled().eval()
    with torch.no_grad():
        torch.testing.assert_close(bnfx.fold(model, keep="graph")(X), model(X))


def test_the_collector_does_not_run_within() -> None:
    """Who watches it (as hypothesis does) is no code of the model's."""
    seen: list[str] = []

    def watching(phase: str, info: dict[str, int]) -> None:
        global _PHASE
        _PHASE = phase
        seen.append(phase)

    model = Net(lambda m, x: sum(m.c([x][0]) for _ in range(50))).eval()
    before = gc.get_threshold()
    gc.callbacks.append(watching)
    gc.set_threshold(1)
    try:
        trace(model)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(watching)
    assert seen
    assert gc.isenabled()


_PHASE = ""
KIND = "def kind(x, tensor):\n    return 2 if isinstance(x, (list, tensor)) else 3\n"


def test_code_in_a_file_that_is_named_as_pythons_is_the_users() -> None:
    kind = python_module("trace", KIND).kind
    assert "may decide by an argument" in refused(lambda m, x: m.c(x) * kind(x, T))
