"""Code that decides by no symbol is traced, and answers as it does in a call."""

from __future__ import annotations

import contextlib
import types
from typing import Any

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
