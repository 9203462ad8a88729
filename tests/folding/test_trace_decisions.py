"""Code that decides by an argument, or by a parameter, in all the ways that Python has.

A symbol is never ``None``, and of no type that a tensor has: a trace would go the other way. Here
the code says ``is`` and ``type``, which no symbol can note, so that it is the source that shows it.
"""

from __future__ import annotations

import builtins
import functools
import io
import operator
import sys
import types
from operator import is_not as differs
from typing import Any

import pytest
import torch
from support import python_module
from torch import fx
from traced_forms import Forms, P, T, refused

KIND = type
decides = Forms()


def looks(v: Any) -> int:
    return 2 if type(v) is T else 3


def looks_inside(v: Any) -> int:
    return 2 if type(v[0]) is T else 3


def looks_at_x(v: Any) -> int:
    return 2 if v.x is None else 3


def looks_by_another_name(v: Any) -> int:
    return 2 if KIND(v) is T else 3


def parameter(m: Any) -> Any:
    return m.w


decides["if"] = lambda m, x: m.c(x) * looks(x)
decides["is"] = lambda m, x: m.c(x) * (x is None)
decides["is not"] = lambda m, x: m.c(x) * (x is not m.plain)
decides["and"] = lambda m, x: m.c(x) * (m.flag and x.shape is None)
decides["index"] = lambda m, x: m.c(x) * (3, 2)[x is not None]
decides["a type as key"] = lambda m, x: m.c(x) * {T: 2}.get(type(x), 3)
decides["a key"] = lambda m, x: m.c(x) * {True: 2, False: 3}[operator.is_(x, None)]
decides["operator"] = lambda m, x: m.c(x) * operator.is_(type(x), T)
decides["operator by another name"] = lambda m, x: m.c(x) * differs(x.grad_fn, None)
decides["an operator that is held"] = lambda m, x: m.c(x) * m.deep["is"](x, None)
decides["type"] = lambda m, x: m.c(x) * len({type(x), T})
decides["type by another name"] = lambda m, x: m.c(x) * (2 if KIND(x) is T else 3)
decides["in a function"] = lambda m, x: m.c(x) * looks_by_another_name(x)
decides["builtins.type"] = lambda m, x: m.c(x) * len({builtins.type(x), T})
decides["an attribute that is type"] = lambda m, x: m.c(x) * len({m.kind(x), T})
decides["mapped"] = lambda m, x: m.c(x) * len({*map(type, [x]), T})
decides["handed on"] = lambda m, x: m.c(x) * len({functools.reduce(lambda k, v: k(v), [type, x])})
decides["a C function's answer"] = lambda m, x: m.c(x) * (2, 3)[sys.getsizeof(x) < 0]
decides["a symbol"] = lambda m, x: m.c(x) * isinstance(x, fx.Proxy)
decides["torch asks"] = lambda m, x: m.c(x) * torch.is_tensor(x)
decides["a lambda's answers"] = lambda m, x: (
    m.c(x) * len({type(functools.reduce(lambda *_: x, "ab")), T})
)
decides["a buffer by its name"] = lambda m, x: m.c(x) * (2 if type(m.get_buffer("b")) is T else 3)
decides["class"] = lambda m, x: m.c(x) * len({x.__class__, T})
decides["text"] = lambda m, x: m.c(x) * len(f"{x.dim()}")
decides["str"] = lambda m, x: m.c(x) * len("a" + str(x))
decides["text of several"] = lambda m, x: m.c(x) * len(",".join(map(str, [x])))
decides["format"] = lambda m, x: m.c(x) * len("{a}".format(a=x.dim()))  # noqa: UP032
decides["percent"] = lambda m, x: m.c(x) * len("%s" % (x.dim(),))  # noqa: UP031
decides["a lambda"] = lambda m, x: m.c(x) * (lambda v: 2 if v is None else 3)(x)
decides["text by a method"] = lambda m, x: m.c(x) * len((lambda f: f(x.dim()))("{}".format))
decides["text of a name"] = lambda m, x: m.c(x) * len((lambda t: t % x.dim())("%s"))
decides["text by a key"] = lambda m, x: m.c(x) * len(str(sorted([x.dim()], key=repr)))
decides["text in a stream"] = lambda m, x: m.c(x) * len([print(x.dim(), file=io.StringIO())])
decides["text by a method of Python's"] = lambda m, x: (
    m.c(x) * len(operator.methodcaller("__repr__")(x.dim()))
)
decides["references"] = lambda m, x: m.c(x) * (2 if sys.getrefcount(x) < 2000 else 3)
decides["by its name"] = lambda m, x: m.c(x) * (2 if type(getattr(m, "w")) is P else 3)  # noqa: B009
decides["classes of weights"] = lambda m, x: (
    m.c(x) * len({*[type(layer.weight) for layer in m.seq], P})
)
decides["an attribute that it may not have"] = lambda m, x: m.c(x) * (3, 2)[hasattr(x, "mask")]
decides["callable"] = lambda m, x: m.c(x) * (2 if callable(x) else 3)
decides["a default"] = lambda m, x: m.c(x) * (lambda v=type(x): 2 if v is T else 3)()  # noqa: B008
decides["by name only"] = lambda m, x: m.c(x) * (lambda *, v=x is None: 2 if v else 3)()
decides["a closure"] = lambda m, x: m.c(x) * (lambda: 2 if x is None else 3)()
decides["stars"] = lambda m, x: m.c(x) * (lambda *v: 2 if v[0] is None else 3)(x)
decides["a filter"] = lambda m, x: m.c(x) * len([1 for _ in "ab" if x is None])
decides["elements"] = lambda m, x: m.c(x) * len([1 for v in [x] if type(v) is T])
decides["a generator"] = lambda m, x: m.c(x) * sum(type(v) is T for v in (v for v in [x]))
decides["a list"] = lambda m, x: m.c(x) * looks_inside([x])
decides["twice"] = lambda m, x: m.c(x) * looks_inside([1]) * looks_inside([x])
decides["deep"] = lambda m, x: m.c(x) * looks_inside([[[[[[x]]]]]][0][0][0][0][0])
decides["many"] = lambda m, x: m.c(x) * looks_inside([x, *range(2000)])
decides["an object"] = lambda m, x: m.c(x) * looks_at_x(types.SimpleNamespace(x=x))
decides["a parameter"] = lambda m, x: m.c(x) * (2 if type(m.w) is P else 3)
decides["a buffer"] = lambda m, x: m.c(x) * (2 if type(m.b) is T else 3)
decides["one of a list"] = lambda m, x: m.c(x) * (2 if type(m.ps[0]) is P else 3)
decides["a weight"] = lambda m, x: m.c(x) * (2 if type(m.c.weight) is P else 3)
decides["a weight inside"] = lambda m, x: m.c(x) * (2 if type(m.seq[0].weight) is P else 3)
decides["data of it"] = lambda m, x: m.c(x) * (2 if type(m.w.data) is T else 3)
decides["its gradient"] = lambda m, x: m.c(x) * (2 if m.w.grad is None else 3)
decides["a sum"] = lambda m, x: m.c(x) * (2 if type(x + m.w) is T else 3)
decides["a layer's answer"] = lambda m, x: m.c(x) * (2 if type(m.c(m.b[None])) is T else 3)
decides["a function's answer"] = lambda m, x: m.c(x) * (2 if type(parameter(m)) is P else 3)


@pytest.mark.parametrize("name", decides)
def test_code_that_decides_by_a_symbol_is_not_traced(name: str) -> None:
    assert "may decide by an argument" in refused(decides[name])


@decides
def renamed(m: Any, x: Any) -> Any:
    return m.c(x) * (2 if x is None else 3)


renamed.__code__ = renamed.__code__.replace(co_name="of_a_decorator")  # type: ignore[attr-defined]

HELPER = "def looks(v):\n    return 2 if v is None else 3\n"


@pytest.mark.parametrize("name", ["inspecting", "typing_own", "namedtuple_own", "bnfxs", "torchs"])
def test_modules_whose_names_begin_as_others_are_read(name: str) -> None:
    looks = python_module(name, HELPER).looks
    assert "looks may decide by an argument" in refused(lambda m, x: m.c(x) * looks(x))
