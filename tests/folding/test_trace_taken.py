"""Code that decides by no symbol is traced, and answers as it does in a call."""

from __future__ import annotations

import contextlib
import enum
import functools
import operator
import types
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from traced_forms import Forms, Way, check_taken

taken = Forms()

taken["a flag"] = lambda m, x: m.c(x) * (2 if m.flag else 3)
taken["no layer"] = lambda m, x: m.c(x) * (2 if m.none is None and m.c is not None else 3)
taken["a bias"] = lambda m, x: m.c(x) * (2 if m.c.bias is not None else 3)
taken["a class of a layer"] = lambda m, x: m.c(x) * (2 if isinstance(m.c, nn.Conv2d) else 3)
taken["a type of a layer"] = lambda m, x: m.c(x) * (2 if type(m.c) is nn.Conv2d else 3)
taken["a name"] = lambda m, x: m.c(x) * (2 if m.mode in ("a", "b") else 3)
taken["one of a list"] = lambda m, x: m.c(x) * (2 if x in [x, 1] else 3)
taken["one of two layers"] = lambda m, x: m.c(x) * sum(v is not None for v in (m.c, m.none))
taken["a key"] = lambda m, x: {"a": m.c, "b": m.none}[m.mode](x)
taken["text"] = lambda m, x: m.c(x) * len(f"{m.mode}")
taken["a layer in a list"] = lambda m, x: m.seq[0](x) * (2 if m.seq[0].bias is not None else 3)
taken["a filter"] = lambda m, x: sum(layer(x) for layer in [m.c, m.none] if layer is not None)
taken["a mask"] = lambda m, x: torch.where(x > 0, m.c(x), x) * x[0, 0]
taken["a lambda"] = lambda m, x: (lambda v, scale=None: v if scale is None else v * 2)(m.c(x))
taken["a getattr"] = lambda m, x: getattr(m, "c")(x) if hasattr(m, "c") else x  # noqa: B009
taken["a getattr of nothing"] = lambda m, x: m.c(x) if getattr(m, "aa", None) is None else x
taken["a closure"] = lambda m, x: (lambda: m.c(x) * m.w)()
taken["not run"] = lambda m, x: m.c(x) if m.flag else isinstance(m.c, nn.Linear)
taken["torch's"] = lambda m, x: F.interpolate(F.relu(m.c(x)), scale_factor=2.0)
taken["told"] = lambda m, x: (m.c(x), torch._assert(x.dim() == 4, f"not {x.dim()}"))[0]


taken["torch's, which hands over"] = lambda m, x: F.max_pool2d(m.c(x), 2)
taken["a method"] = lambda m, x: m.twice(x) * (2 if getattr(m, "flag") else 3)  # noqa: B009
taken["Python's modules"] = lambda m, x: m.c(F.relu(x)) * (2 if F is not None else 3)

taken["getattr by its beginning"] = lambda m, x: getattr(m, "blo" + "cks"[:2])(x)
taken["getattr by a format"] = lambda m, x: getattr(m, "blo%s" % "ck")(x)  # noqa: UP031
taken["getattr by another format"] = lambda m, x: getattr(m, "blo{}".format("ck"))(x)
taken["getattr of one of two"] = lambda m, x: getattr(m, "c" if m.flag else "none")(x)
taken["getattr of a list"] = lambda m, x: sum(getattr(m, name)(x) for name in m.texts)
taken["getattr of some"] = lambda m, x: sum(getattr(m, name)(x) for name in ("c", "c"))
taken["text of one of two"] = lambda m, x: m.c(x) * len(f"{'a' if m.flag else 'bc'}")
taken["text of numbers"] = lambda m, x: m.c(x) * len(f"{m.numbers[0] + len(m.seq)}{-m.numbers[1]}")
taken["text of a list"] = lambda m, x: m.c(x) * len(f"{m.numbers}{(m.mode, 1)}{m.numbers[0] == 1}")
taken["text of elements"] = lambda m, x: (
    m.c(x) * sum(len(f"{n}{t}") for n in m.numbers for t in "a")
)
taken["text of a minimum"] = lambda m, x: m.c(x) * len(f"{min(m.numbers[0], 3)}{m.flag and 3}")
taken["told by print"] = lambda m, x: (print(f"{x.dim()}", end="", flush=True), m.c(x))[1]
taken["told by a method"] = lambda m, x: (print("{}".format(x.dim()), end=""), m.c(x))[1]  # noqa: UP032
taken["a truth"] = lambda m, x: m.c(x) * (2 if (m.mode is None) is False else 3)
taken["a negation"] = lambda m, x: m.c(x) * (2 if (not m.flag) is False else 3)
taken["one of them"] = lambda m, x: m.c(x) * (2 if (m.none or m.mode) is None else 3)
taken["a number"] = lambda m, x: m.c(x) * (2 if len(m.seq) is None else 3)
taken["a list that it makes"] = lambda m, x: m.c(x) * (2 if [x] is None else 3)  # noqa: F632
taken["a function's number"] = lambda m, x: m.c(x) * (2 if number(m) is None else 3)
taken["a layer of a class"] = lambda m, x: m.c(x) * (2 if issubclass(type(m.c), nn.Module) else 3)
taken["a method of its own"] = lambda m, x: m.c(x) * len(m.named())
taken["layers by name"] = lambda m, x: sum(layer(x) for _, layer in m.seq.named_children())
taken["a slice"] = lambda m, x: m.c(x)[:, : x.shape[1] // 2] % 2
taken["an operator"] = lambda m, x: functools.reduce(operator.add, [operator.mul(m.c(x), 2), x])
taken["an error"] = lambda m, x: m.c(x) if m.flag else raises(KeyError("none"))
taken["a partial"] = lambda m, x: functools.partial(torch.mul, m.c(x))(2)
taken["a tensor's name for a module's"] = lambda m, x: m.c(x.float().cpu())
taken["a table of layers"] = lambda m, x: {"a": m.c}[m.mode](x)
taken["a class of this file"] = lambda m, x: Scales(2)(m.c(x)) * (2 if Scales is not None else 3)
taken["an enumeration"] = lambda m, x: m.c(x) * (2 if Mode.A is Mode.B else 3)
taken["a place"] = lambda m, x: sum(m.c(x) * (2 if at is None else 3) for at, _ in enumerate([x]))


def number(m: Any) -> int:
    return len(m.seq)


def raises(error: Exception) -> Any:
    raise error


class Scales:
    def __init__(self, scale: int) -> None:
        self.scale = scale

    def __call__(self, x: Any) -> Any:
        return x * self.scale


class Mode(enum.Enum):
    A = 1
    B = 2


@taken
def a_layer_of_a_closure(m: Any, x: Any) -> Any:
    layer, mode = m.c, m.mode

    def answers() -> Any:
        return layer(x) * (2 if layer.bias is None else 3) * len(f"{mode}")

    return answers()


@taken
def a_named_tuple(m: Any, x: Any) -> Any:
    pair = Pair(m.c(x), 2)
    return pair.x * pair.scale


class Pair(NamedTuple):
    x: Any
    scale: int


@taken
def a_walrus_and_a_while(m: Any, x: Any) -> Any:
    count = 0
    while (count := count + 1) < 3:
        x = m.c(x)
    return x


@taken
def sets_and_tables(m: Any, x: Any) -> Any:
    scales = {name: at for at, name in enumerate(("a", "b"), 1)}
    return m.c(x) * scales["b"] * len({n * 2 for n in m.numbers})


@taken
def the_model_by_another_name(m: Any, x: Any) -> Any:
    net = m
    y = net.c(x)
    return y * (2 if getattr(net, "flag") else 3)  # noqa: B009


@taken
def a_function_by_a_name(m: Any, x: Any) -> Any:
    scaled = lambda v: v * 2  # noqa: E731
    y = scaled(m.c(x))
    return y if scaled is not None else x


@taken
def a_list(m: Any, x: Any) -> Any:
    outputs: list[Any] = []
    for at, each in enumerate([x, x * 2]):
        outputs.append(m.c(each) if at is not None and at > 0 else each)
    return torch.cat(outputs)


def joined(values: Any) -> Any:
    if values is None or not isinstance(values, (list, tuple)):
        return values
    return torch.cat(values)


@taken
def a_list_that_is_handed_on(m: Any, x: Any) -> Any:
    return joined([m.c(x), x])


@taken
def a_dict(m: Any, x: Any) -> Any:
    held = {"a": x}
    held["b"] = m.c(held["a"])
    return held["b"]


@taken
def a_layer_by_another_name(m: Any, x: Any) -> Any:
    layer = m.c
    return layer(x) if layer.bias is not None else x


@taken
def a_write(m: Any, x: Any) -> Any:
    y = m.c(x)
    y += 1
    y *= m.w
    y -= x.mean()
    return y


@taken
def a_context(m: Any, x: Any) -> Any:
    with torch.no_grad(), contextlib.nullcontext():
        return m.c(x)


@taken
def a_recursion(m: Any, x: Any) -> Any:
    def again(count: int) -> Any:
        return m.c(x) if count == 0 else again(count - 1) * 2

    return again(2)


@taken
def an_object(m: Any, x: Any) -> Any:
    def scaled(options: Any) -> Any:
        return m.c(x) * (2 if options.scale is None else 3)

    return scaled(types.SimpleNamespace(scale=1))


@pytest.mark.parametrize("way", taken.values(), ids=taken.keys())
def test_what_decides_by_no_symbol_is_traced(way: Way) -> None:
    check_taken(way)
