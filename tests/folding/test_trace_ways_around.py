"""Ways by which code could look at a symbol behind the back of what is read."""

from __future__ import annotations

import copy
import functools
import io
import types
from typing import Any

import pytest
import torch
from torch import nn
from traced_forms import Forms, Net, T, X, refused

from bnfx.errors import CaptureError
from bnfx.folding.capturing.symbolic import trace

TABLE = {"a": "t"}
around = Forms()


def looks(v: Any) -> int:
    return 2 if v is None else 3


@torch.no_grad()
def looks_without_gradients(v: Any) -> int:
    return 2 if v is None else 3


def itself(v: Any) -> Any:
    return v


class Holds:
    """Its operators give what it holds."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __eq__(self, other: object) -> Any:
        return self.x

    def __add__(self, other: object) -> Any:
        return self.x

    def __reversed__(self) -> Any:
        return self.x

    def __neg__(self) -> Any:
        return self.x

    __hash__ = None  # type: ignore[assignment]


def hooked(m: Any, x: Any, register: Any) -> Any:
    seen: list[int] = []
    hook = register(lambda *_: seen.append(1))
    y = m.seq[0](x)
    hook.remove()
    return y * (2 + len(seen))


@around
def a_hook_by_a_loop(m: Any, x: Any) -> Any:
    seen: list[int] = []
    for layer in m.seq:
        layer.register_forward_hook(lambda *_: seen.append(1))
    return m.seq[0](x) * (2 + len(seen))


around["a hook by getattr"] = lambda m, x: hooked(
    m,
    x,
    getattr(m.seq[0], "register_forward_hook"),  # noqa: B009
)
around["a hook by a text"] = lambda m, x: hooked(
    m, x, getattr(m.seq[0], "_".join(["register", "forward_hook"]))
)
around["a hook by a class"] = lambda m, x: hooked(
    m, x, functools.partial(nn.Module.register_forward_hook, m.seq[0])
)


@around
def text_of_a_table(m: Any, x: Any) -> Any:
    m.table["b"] = x.dim()
    count = len(f"{m.table}")
    del m.table["b"]
    return m.c(x) * count


@around
def text_of_a_table_by_another_name(m: Any, x: Any) -> Any:
    table = m.table
    table["b"] = x.dim()
    count = len(f"{m.table}")
    table.pop("b")
    return m.c(x) * count


@around
def text_of_a_table_in_one(m: Any, x: Any) -> Any:
    m.rows["a"]["b"] = x.dim()
    count = len(f"{m.rows}")
    m.rows["a"].clear()
    return m.c(x) * count


@around
def text_of_a_global(m: Any, x: Any) -> Any:
    TABLE["a"] = x.dim()
    count = len(f"{TABLE}")
    TABLE["a"] = "t"
    return m.c(x) * count


@around
def an_entry(m: Any, x: Any) -> Any:
    m.table["b"] = x
    count = 2 if m.table["b"] is None else 3
    m.table.pop("b")
    return m.c(x) * count


@around
def an_attribute_that_is_computed(m: Any, x: Any) -> Any:
    m.saved = x
    count = 2 if m.computed is None else 3
    m.saved = None
    return m.c(x) * count


@around
def an_attribute_of_an_object(m: Any, x: Any) -> Any:
    m.space.x = x
    count = 2 if m.space.x is None else 3
    m.space.x = None
    return m.c(x) * count


@around
def a_default_list(m: Any, x: Any, held: Any = []) -> Any:  # noqa: B006
    held.append(x)
    count = len(f"{held}")
    held.clear()
    return m.c(x) * count


@around
def printed_and_kept(m: Any, x: Any) -> Any:
    print(text := f"{x.dim()}")
    return m.c(x) * len(text)


@around
def printed_and_held(m: Any, x: Any) -> Any:
    held: list[str] = []
    print(held.append(f"{x.dim()}"))
    return m.c(x) * len(held[0])


@around
def asserted(m: Any, x: Any) -> Any:
    torch._assert(len(f"{x.dim()}") != 2, "two digits")
    return m.c(x)


@around
def a_name_that_changes(m: Any, x: Any) -> Any:
    y = None
    answers = lambda: 2 if y is None else 3  # noqa: E731
    y = x
    return m.c(x) * answers()


@around
def added_text(m: Any, x: Any) -> Any:
    text = "%s"
    text %= x.dim()
    return m.c(x) * len(text)


def of_either(held: Any, m: Any) -> int:
    if m.none is not None:
        held = m.c
    return 2 if held.bias is None else 3


around["what may be a layer"] = lambda m, x: m.c(x) * of_either(types.SimpleNamespace(bias=x), m)
around["text by a getattr"] = lambda m, x: (
    m.c(x)
    * len([getattr(m, "table").update(b=x.dim()), f"{getattr(m, 'table')}"][1])  # noqa: B009
    * len([m.table.pop("b")])
)
around["getattr by a text"] = lambda m, x: hooked(
    m, x, getattr(m.seq[0], f"{'_'.join(['register', 'forward_hook'])}")
)
around["getattr of a list"] = lambda m, x: (
    m.c(x) * sum(len(getattr(x, name)) for name in ["__module__"])
)
around["printed with a file"] = lambda m, x: (
    m.c(x) * len([print(x.dim(), sep="", file=io.StringIO())])
)
around["either"] = lambda m, x: m.c(x) * (2 if (m.flag and x) is None else 3)
around["or"] = lambda m, x: m.c(x) * (2 if (m.none or x) is None else 3)
around["one of two"] = lambda m, x: m.c(x) * (2 if (m.mode if m.none else x) is None else 3)
around["the other of two"] = lambda m, x: m.c(x) * (2 if (x if m.flag else m.mode) is None else 3)
around["text of one of two"] = lambda m, x: m.c(x) * len(f"{x.dim() if m.flag else m.mode}")
around["text of the other"] = lambda m, x: m.c(x) * len(f"{m.mode if m.none else x.dim()}")
around["text of a sum"] = lambda m, x: m.c(x) * len(f"{1 + x.dim()}")
around["text of a tuple"] = lambda m, x: m.c(x) * len(f"{(1, x.dim())}")
around["text of a text"] = lambda m, x: m.c(x) * len(f"{f'{x.dim()}'}")
around["text of a minimum"] = lambda m, x: m.c(x) * len(f"{max([1], key=lambda _: 1)}{[x.dim()]}")
around["a minimum"] = lambda m, x: m.c(x) * (2 if sum([x], start=0) is None else 3)
around["of two classes"] = lambda m, x: m.c(x) * (2 if issubclass(nn.Module, type(x)) else 3)
around["a weight or nothing"] = lambda m, x: m.c(x) * (2 if m.w is m.b else 3)
around["a tied weight"] = lambda m, x: m.c(x) * (2 if m.c.weight is m.tied.weight else 3)
around["a computed weight"] = lambda m, x: m.c(x) * (2 if m.odd.bias is None else 3)
around["told by one of two"] = lambda m, x: (
    m.c(x) * len([print(len(t)) for t in ["a"] if len(f"{x.dim()}") < 4] + [1])
)


@around
def a_name_of_a_comprehension(m: Any, x: Any) -> Any:
    kinds = [len or 1 for len in [type]]
    return m.c(x) * (2 if kinds[0](x) is T else 3)


@around
def a_builtin_after_a_comprehension(m: Any, x: Any) -> Any:
    sizes = [repr + 0 for repr in [1]]
    return m.c(x) * sum(sizes) * sum([*map(len, map(repr, [x.dim()]))])


around["equal to"] = lambda m, x: m.c(x) * (2 if (Holds(x) == 1) is None else 3)
around["added"] = lambda m, x: m.c(x) * (2 if type(Holds(x) + 1) is T else 3)
around["negative"] = lambda m, x: m.c(x) * (2 if type(-Holds(x)) is T else 3)
around["reversed"] = lambda m, x: m.c(x) * (2 if type(reversed(Holds(x))) is T else 3)
around["text by its class"] = lambda m, x: m.c(x) * len(T.__repr__(x))
around["the name of its class"] = lambda m, x: m.c(x) * len(torch.typename(x))
around["the tracer asks"] = lambda m, x: (
    m.c(x) * (2 if torch._dynamo.utils.istype(x, torch.Tensor) else 3)
)
around["a copy"] = lambda m, x: m.c(copy.copy(x)) * (2 if copy.copy(x) is x else 3)
around["a partial"] = lambda m, x: m.c(x) * functools.partial(looks, x)()
around["a decorated function"] = lambda m, x: m.c(x) * looks_without_gradients(x)
around["what a function gives"] = lambda m, x: m.c(x) * (2 if itself(x) is None else 3)
around["leaves"] = lambda m, x: m.c(x) * len(torch.utils._pytree.tree_leaves(x))
around["mapped"] = lambda m, x: m.c(x) * [*map(m.kind, [x])].count(T)
around["starred"] = lambda m, x: m.c(x) * len("{}".format(*[x.dim()]))


@pytest.mark.parametrize("name", around)
def test_there_is_no_way_around(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(around[name])


def test_what_a_symbol_has_by_itself_is_not_read() -> None:
    """A graph's batch has an ``attr``, and so has an attribute of a symbol."""
    model = Net(lambda m, x: m.c(x.mT.attr)).eval()
    with pytest.raises(CaptureError, match="may decide by an argument"):
        trace(model)
    with pytest.raises(AttributeError):
        model(X)
