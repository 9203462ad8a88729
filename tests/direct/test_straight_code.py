"""Code that does no more than to call a graph is read as Python runs it; the rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from direct_code import Written, same
from torch import nn

from bnfx.direct.watched import NotDirectError

G = "out = __compiled_fn_1(x)\n"
READ: dict[str, str] = {
    "all outputs": "return __compiled_fn_1(x, y)",
    "one output": f"{G}return out[1]",
    "outputs that are unpacked": "a, b, c = __compiled_fn_1(x)\nreturn (c, a, b)",
    "four, the other way round": f"{G}a, b, c, d = [x, y, 1, 2]\nreturn [d, c, b, a, out[0]]",
    "two that are swapped": "a, b = (x, y)\na, b = b, a\nreturn __compiled_fn_1(a, b)",
    "nests": f"{G}k = 'a'\nreturn {{k: out[0], 'b': [x, (out[1], None)]}}",
    "one key": f"{G}return {{'b': [out[2]]}}",
    "keys that are numbers": f"{G}k = 4\nreturn {{k: out[0], 3: out[1]}}",
    "nothing": f"{G}return None",
    "nothing to build": f"{G}return [], {{}}, ()",
    "what was given": f"{G}return x, more, more['k'], more['k'][0], rest, rest[-1], x.shape",
    "what was given, to the graph": "return __compiled_fn_1(x, more['k'][0], x.shape, rest[1])",
    "a list in a list": f"{G}a = [out[0]]\nreturn [*a, *(x, y), *[a, *a]]",
    "items of a list": f"{G}a = [out[0], x]\nb = (y, a)\nreturn a[1], b[0], b[-2], a[-1], a[0]",
    "what is put twice": f"{G}return out[0], out[0], x, x, self, self",
    "parameters": "return __compiled_fn_1(self._modules['layer']._parameters['weight'], x)",
    "what is none": "return __compiled_fn_1(self._modules['layer']._parameters['bias'])",
    "items of the model": "return __compiled_fn_1(self.table['a'], self.table[3], self.pair[0])",
    "items of lists": f"{G}return self.items[1], self.pair[1][0], self.items, self.ordered['a']",
    "of the class": f"{G}l = self._modules['layer']\nreturn l.number, l.computed, l.slot",
    "of objects": f"{G}return self.flags.depth, self.flags",
    "not a profiler": f"{G}l = self._modules['layer']\nreturn l._is_profiler_enabled",
    "looked up otherwise": f"{G}return self._modules['stubborn'].asked",
    "globals": f"{G}return ANY, torch.float32, torch.nn.Module",
    "around": f"{G}return around, around[0]",
    "deleted": f"{G}a = out[0]\ndel out\nreturn a",
    "markers": f"a = enter()\n{G}leave(a)\nreturn out",
    "markers by another way": f"e = utils.record_pregraph_bytecode_enter\na = e()\n{G}return out",
    "sizes": "a = call_size(x, 1)\nreturn __compiled_fn_1(a, call_stride(x, 0), x)[0], a",
    "numbers": "return __compiled_fn_1(as_tensor(self.scale), as_tensor(1.5))",
    "numbers that are given": "return __compiled_fn_1(call_size(more['k'][0], 0))",
    "not the profiler": f"if profiler._is_profiler_enabled:\n    print()\n{G}return out",
    "is": f"a = None\nif a is None:\n    {G}else:\n    print()\nreturn out",
    "is not": f"a = None\nif a is not None:\n    print()\n{G}return out",
    "is, kept": f"{G}a = None\nb = 1\nreturn a is None, a is not None, a is b, a is not b",
    "yes and no": f"{G}a, b = [1, 0]\nif a:\n    a = x\nif b:\n    a = y\nreturn a",
    "not": f"{G}a = 1\nb = 0\nif not a:\n    return x\nif not b:\n    return y",
    "past the rest": f"{G}a = 1\nif a:\n    b = x\nelse:\n    b = y\nreturn b",
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name: str) -> None:
    code = Written(READ[name])
    direct = code.shortcut()
    expected = code.run()
    for _ in range(2):
        assert same(direct(), expected)


def test_lists_and_dicts_are_new_ones() -> None:
    direct = Written(f"{G}return [x], {{'a': []}}, ([],)").shortcut()
    (one, _), (other, _) = direct(), direct()
    one[0].append(1)
    one[1]["b"] = 1
    one[2][0].append(2)
    assert [len(other[0]), other[1], other[2]] == [1, {"a": []}, ([],)]


REFUSED: dict[str, tuple[str, str]] = {
    "no graph": ("return x", "calls no graph"),
    "two graphs": (f"{G}return __compiled_fn_2(x)", "calls __compiled_fn_2 beside its graph"),
    "another call": (f"{G}print(x)\nreturn out", "calls print beside its graph"),
    "another call alone": ("return print(x)", "calls print beside its graph"),
    "a function in a module": (f"f = torch.relu\n{G}return f(x)", "calls torch.relu beside"),
    "a part of the graph": ("f = __compiled_fn_1.__call__\nreturn f(x)", "beside its graph"),
    "what is given": (f"{G}return x()", "calls what is not known"),
    "what was built": (f"{G}a = [x]\nreturn a()", "calls what is not known"),
    "what the model has": (f"{G}f = self.layer\nreturn f(x)", "calls what is not known"),
    "a method": (f"{G}return x.sum()", "its code has LOAD_METHOD"),
    "keywords": (f"{G}return print(sep=x)", "its code has KW_NAMES"),
    "an assignment": (f"{G}self.scale = 1\nreturn out", "its code has STORE_ATTR"),
    "an item that is put": (f"{G}more['z'] = 1\nreturn out", "its code has STORE_SUBSCR"),
    "a global": (f"global z\n{G}z = 1\nreturn out", "its code has STORE_GLOBAL"),
    "an error": (f"{G}raise x", "its code has RAISE_VARARGS"),
    "arithmetic": (f"{G}return x + y", "its code has BINARY_OP"),
    "a loop": (f"a = 1\nwhile a:\n    {G}return out", "its code has|does not return"),
    "a loop over": (f"{G}for a in x:\n    pass\nreturn out", "its code has GET_ITER"),
    "a decision": (f"{G}if x:\n    return y\nreturn out", "decides by what is not known"),
    "a decision by None": (f"{G}if x is None:\n    return y\nreturn out", "not known"),
    "a decision by an output": (f"{G}if out[0]:\n    return y\nreturn out", "not known"),
    "a comparison": (f"{G}return x is y", "compares what is not known"),
    "one side": (f"{G}a = 1\nreturn a is y, 0", "compares what is not known"),
    "the other side": (f"{G}a = 1\nreturn y is a, 0", "compares what is not known"),
    "an item by what is given": (f"{G}return more[y]", "a key is not known"),
    "an item by a truth": (f"{G}return rest[True]", "a key is not known"),
    "an item by nothing": (f"{G}return more[None]", "a key is not known"),
    "a key that is given": (f"{G}return {{x: 1}}", "a key is not known"),
    "an item of an output": (f"{G}return out[0][1]", "an item of what is not known"),
    "an item by name": (f"{G}return out['a']", "an item of what is not known"),
    "an item that is not there": (f"{G}a = [x]\nreturn a[1]", "an item of what is not known"),
    "one before the first": (f"{G}a = [x]\nreturn a[-2]", "an item of what is not known"),
    "of a list by name": (f"{G}a = [x]\nreturn a['k']", "an item of what is not known"),
    "an item of a dict": (f"{G}a = {{'k': x}}\nreturn a['k']", "an item of what is not known"),
    "an attribute of an output": (f"{G}a = out[0]\nreturn a.shape", "reads shape of what is not"),
    "an attribute of a list": (f"{G}a = [x]\nreturn a.shape", "reads shape of what is not"),
    "a profiler of another": (
        f"{G}if torch._is_profiler_enabled:\n    pass\nreturn out",
        "decides",
    ),
    "more than the profiler": (f"{G}if profiler.enabled:\n    pass\nreturn out", "decides"),
    "a profiler that is given": (f"if x._is_profiler_enabled:\n    pass\n{G}return out", "decides"),
    "lists of what is given": (f"{G}return [*x]", "extends a list by what is not known"),
    "lists of constants": (f"{G}return [1, 2, 3]", "extends a list by what is not known"),
    "a marker": (f"a = enter()\n{G}return a", "returns what is not known"),
    "a marker in a list": (f"a = enter()\n{G}return [x, (a,)]", "returns what is not known"),
    "a marker in a dict": (f"a = enter()\n{G}return {{'k': a}}", "returns what is not known"),
    "a marker in the graph": ("return __compiled_fn_1(enter())", "takes what is not known"),
    "a list in the graph": ("return __compiled_fn_1([x])", "takes what is not known"),
    "an output in the graph": (
        f"{G}return __compiled_fn_1(out)",
        "calls __compiled_fn_1 beside its graph",
    ),
    "the size of an output": (f"{G}return call_size(out[0], 0)", "the size of what is not known"),
    "the size of a size": (
        f"a = call_size(x, 0)\n{G}return call_size(a, 0)",
        "the size of what is not known",
    ),
    "what is gone": (f"{G}del x\nreturn x", "returns what is not known"),
    "what is gone, in the graph": ("a = x\ndel x\nreturn __compiled_fn_1(x)", "takes what is not"),
    "a list twice": (f"{G}a = [x]\nreturn a, a", "stands twice"),
    "a list within": (f"{G}a = [x]\nreturn a, (a,)", "stands twice"),
    "a dict twice": (f"{G}a = {{'k': x}}\nreturn [a, [a]]", "stands twice"),
    "a tuple twice": (f"{G}a = (x, y)\nreturn [a, a]", "stands twice"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    body, why = REFUSED[name]
    with pytest.raises(NotDirectError, match=why):
        Written(body).shortcut()


@pytest.mark.parametrize("name", ["record_pregraph_bytecode_exit", "call_storage_offset"])
def test_what_torch_may_not_have(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code = Written(f"nothing()\n{G}return out", nothing=None)
    monkeypatch.delattr(torch._dynamo.utils, name)
    with pytest.raises(NotDirectError, match="calls nothing beside its graph"):
        code.shortcut()


Change = Callable[[Any], object]
LOADED = (
    "l = self._modules['layer']\n"
    "out = __compiled_fn_1(l._parameters['weight'], self.table['a'], self.pair[0], self.items[0])\n"
    "return self.flags.depth, l.number, l.computed, l.slot, self.ordered['a'], "
    "self._modules['stubborn'].asked, ANY"
)
ASSIGNED: dict[str, tuple[Change, bool]] = {
    "a layer": (lambda c: c.model.add_module("layer", type(c.model.layer)()), False),
    "a parameter": (lambda c: setattr(c.model.layer, "weight", nn.Parameter(torch.ones(1))), False),
    "a dict": (lambda c: setattr(c.model, "table", {"a": 3}), False),
    "an item": (lambda c: c.model.table.update(a=3), False),
    "a tuple": (lambda c: setattr(c.model, "pair", (torch.ones(3), [])), False),
    "all layers": (lambda c: setattr(c.model, "_modules", dict(c.model._modules)), False),
    "an item of a list": (lambda c: c.model.items.__setitem__(0, 6), True),
    "an attribute of an object": (lambda c: setattr(c.model.flags, "depth", 6), True),
    "an item of another dict": (lambda c: c.model.ordered.update(a=6), True),
    "what is behind a property": (lambda c: setattr(c.model.layer, "hidden", 6), False),
    "a number of a class": (lambda c: setattr(type(c.model.layer), "number", 6), False),
    "a global": (lambda c: c.names.update(ANY=object()), True),
}


@pytest.mark.parametrize("name", ASSIGNED)
def test_what_is_loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is watched, or loaded anew at each call."""
    code = Written(LOADED)
    monkeypatch.setattr(type(code.model.layer), "number", 5)
    direct = code.shortcut()
    holds = code.watched.holds()
    assert holds()
    assert same(direct(), code.run())
    change, anew = ASSIGNED[name]
    change(code)
    assert holds() is anew
    if anew:
        assert same(direct(), code.run())


def test_what_is_not_loaded_is_not_watched() -> None:
    code = Written("return __compiled_fn_1(self.table['a'])")
    code.shortcut()
    holds = code.watched.holds()
    code.model.layer.weight = nn.Parameter(torch.ones(1))
    assert holds()
