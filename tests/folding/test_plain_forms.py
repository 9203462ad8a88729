"""Which forms of code are plain: each is a class ``Net``, or the body of a method of it."""

from __future__ import annotations

import itertools
import linecache
import textwrap
from pathlib import Path
from typing import Any

import pytest
from support import python_module

from bnfx.folding.modules.plain.plain_model import PlainModel

_NUMBER = itertools.count()
_HEAD = (Path(__file__).with_name("sources") / "head_of_forms.txt").read_text()
_BODY = "class Net(Between):\n    def probe(self, x, d=2, *args, k=3, **more):\n"


def network(code: str) -> Any:
    if "class Net" not in code:
        inside = "    " if code.startswith(("def ", "@", "class_", "size", "forward")) else " " * 8
        code = ("class Net(Between):\n" if inside == "    " else _BODY) + textwrap.indent(
            code, inside
        )
    name = f"made_by_test_plain_forms_{next(_NUMBER)}"
    return python_module(name, f"{_HEAD}\n{code}\n").Net()


PLAIN = [
    *('"text"', "x = x + SIZE", "return len(x)", "return x, d, args, k, more", "return CUT, EACH"),
    *("return [i for i in x]", "return sum(i for i in x)", "return sum((i for i in x), d)"),
    *("return x.size(0)", "return x.anything", "return x.n.m", "x[0] = {1: x[1:2]}", "x += -x"),
    *("self.n = self.m = 1", "self.n += 1", "return self.other(x)", "return self.static(x)"),
    *(
        "return helper(x)",
        "return Made()(x)",
        "return Record(1)",
        "raise ended",
        "return nn.Conv2d",
    ),
    *("return torch.relu(F.relu(x)) + nn.functional.relu(x)", "return Config.size", "Config.kind"),
    *(
        "return Config.helper(x), Config.same(x)",
        "return x % 2, 7 % x",
        "x %= 2",
        "assert x, 'a' + 'b'",
    ),
    *("assert x, f'{x}'", "assert x, 'a' % x", "raise ValueError(f'{x}')", "y: eval = x\nreturn y"),
    *(
        "return isinstance(x, int)",
        "with torch.no_grad():\n    return x",
        "return super().other(x)",
    ),
    *("with torch.no_grad(), torch.autocast('cpu'):\n    return x", "return super().forward(x)"),
    *(
        "return 'a' if x else 'b' + x",
        "for i, j in x:\n    break\nelse:\n    pass",
        "return lists(x)",
    ),
    *("return dict.fromkeys(x)", "if x:\n    pass", "return self.training, self.n"),
    "def probe(self, /, x: eval, y=(1, 'a'), *, z: print = None) -> eval:\n    return x",
    "def probe(self):\n    return self.n",
    "class Net(nn.Module):\n    def probe(self):\n        return Net()",
    "class Net(nn.Module):\n    def __init__(self, n=0):\n        super().__init__()\n"
    "        self.below = Net(n - 1) if n else None\n    def probe(self):\n        return Net(2)",
    "SIZE, y = x\nreturn SIZE",
    "torch._assert(x, 'a')\nreturn nn.modules.conv.F.relu(x)",
    "@torch.jit.export\ndef probe(self, x):\n    return x",
    "@staticmethod\ndef other(x):\n    return helper(x)",
    "@staticmethod\ndef count():\n    return 3",
    "size__ = 3\ndef other__(self, x):\n    return x",
    "def __repr__(self):\n    return eval('self')",
    "size, sizes, kind = 3, [1, {'a': 2}], nn.Conv2d",
    "class Net(nn.Sequential):\n    _version = 2\n    def forward(self, x):\n"
    "        for m in self:\n            x = m(x)\n        return [m(x) for m in self]",
    "class Net(nn.ModuleDict):\n    def forward(self, x):\n"
    "        for m in self.values():\n            x = m(x)\n"
    "        return [m(x) for k, m in self.items()]",
    "class Net(Above):\n    def values(self):\n        return [1]\n"
    "    def forward(self, x):\n        return [m + x for m in self.values()]",
]
STRANGE = [
    *("return self", "y = self", "self = x", "for self in x:\n    pass", "return (self, x)"),
    *("for i in self:\n    i(x)", "return [i for i in self]", "x(self)", "x[self]", "self += x"),
    *(
        "return eval",
        "return NOTHING",
        "return KEPT",
        "return KEPT.a",
        "return Config",
        "return torch",
    ),
    *("return LATER", "return make()", "return strange(x)", "return evil(x)", "return given(x)"),
    *(
        "return told(x)",
        "return nothing",
        "return Config.kept",
        "return Config.nothing",
        "print(x)",
    ),
    *("x.n = 1", "x.n += 1", "return x.__class__", "return x.register_x()", "return x.grad_fn"),
    *(
        "return x.backward",
        "return x._z",
        "return x.children()",
        "return x.forward(x)",
        "x.format(d)",
    ),
    *("return x.init_weights()", "return x.__init__()", "super().__init__()", "return F.relu.a"),
    *("return self._modules", "return self.init_weights()", "return self.children()", "self.__n"),
    *("return self.other", "return x(self.other)", "return x(k=self.other)", "self.other = x"),
    *("return self.grad_fn", "return self.T_destination", "return Evil(3, 3, 1)", "return Odd()"),
    "return nn.Module.children(x)",
    *(
        "return f'{x}'",
        "return 'a' % x",
        "return x % d",
        "x %= d",
        "assert x(f'{x}')",
        "x = x % 'a'",
    ),
    *("assert x('a' % x), d", "return x % None", "return x % [1]", "y = [f'{x}' for i in d]"),
    *("return (i for i in x)", "return helper(i for i in x)", "return enumerate(i for i in x)"),
    *(
        "return sum(*(i for i in x))",
        "return max(d, key=(i for i in x))",
        "return x.sum(i for i in x)",
    ),
    *("with x:\n    pass", "with helper(x):\n    pass", "with torch.no_grad:\n    pass"),
    *(
        "return [0 for len in x]",
        "return [0 for SIZE in x]",
        "return [0 for d[len] in x for len in x]",
    ),
    *("return lambda: x", "return (y := x)", "return {i for i in x}", "return {x}", "yield x"),
    *(
        "return {i: i for i in x}",
        "while x:\n    pass",
        "global SIZE\nSIZE = x",
        "del x",
        "import os",
    ),
    *("try:\n    pass\nexcept ValueError:\n    pass", "def f():\n    pass", "class A:\n    pass"),
    *("return super", "return super()", "return super().other", "return super(Net, self).other(x)"),
    *("return super().nothing(x)", "return super().train()", "return super().reset_parameters()"),
    *("return x(super().other)", "return super(**x).other(x)", "return super().other.x(x)"),
    *("super = x\nreturn super().other(x)", "__y = x\nreturn __y", "return __name__", "async_(x)"),
    "sum = helper\nreturn sum(i for i in x)",
    "def probe(*args):\n    return args",
    "@told\ndef probe(self, x):\n    return x",
    "return super()(x)(d)",
    "return super(Net, x).other(x)",
    "return Wild()(x)",
    "super().n = x",
    "class Net(nn.Sequential):\n    def probe(self, x):\n        return [m(x) for m in x if self]",
    "def made(SIZE):\n    class Net(Above):\n        def probe(self): return SIZE\n"
    "    return Net\nNet = made(eval)",
    "def probe(self, x=1, y=eval):\n    return y",
    "def probe(self, x=1, *, y=1, z=eval):\n    return z",
    "async def probe(self, x):\n    return x",
    "@staticmethod\ndef other(x):\n    return super().other(x)",
    "@staticmethod\ndef other(x):\n    return self.n",
    "@functools.lru_cache\ndef probe(self):\n    return 1",
    "@property\ndef probe(self):\n    return 1",
    "@classmethod\ndef probe(cls):\n    return 1",
    "def __len__(self):\n    return 1",
    "def train(self, mode=True):\n    return 1",
    "size_of = eval",
    "sizes = [1, eval]",
    "def probe(self):\n    return 1\ntrain = 3",
    "forward = functools.partialmethod(helper)",
    "def probe(self, x):\n    return 1\nprobe = functools.wraps(probe)(helper)",
    "probe = lambda self, x: x",
    "class Net(Above, metaclass=type('Meta', (type,), {})):\n    pass",
    "class Net(nn.Sequential):\n    def probe(self, x):\n        return [m for m in self]",
    "class Net(nn.Sequential):\n    def probe(self, x):\n        return [a(x) for a, b in self]",
    "class Net(nn.Sequential):\n    def probe(self, x):\n        return [m for m in x if self]",
    "class Net(nn.ModuleDict):\n    def probe(self, x):\n        return [m for m in self.values()]",
    "class Net(nn.ModuleDict):\n    def probe(self, x):\n        return self.values()",
    "class Net(nn.ModuleDict):\n    def probe(self, x):\n        return [m(x) for m in self]",
    "class Net(nn.GRU):\n    def __init__(self): super().__init__(2, 2)\n"
    "    def probe(self):\n        return self.all_weights",
    "def sum(it): return list(it)\n"
    "class Net(Above):\n    def probe(self, x): return sum(i for i in x)",
    "def super(): return None\nclass Net(Above):\n    def other(self, x): return super().other(x)",
    "class Net(Above):\n    other = Between.other",
    "def made():\n    y = 3\n    class Net(Above):\n        def probe(self): return y\n"
    "    return Net\nNet = made()",
]


@pytest.mark.parametrize("code", PLAIN)
def test_a_form_that_is_plain(code: str) -> None:
    code = code.replace("lists(x)", "tuple(x) + (min(x, d), max([*x, d]))")
    assert PlainModel(network(code)).strange is None


@pytest.mark.parametrize("code", STRANGE)
def test_a_form_that_is_not(code: str) -> None:
    assert PlainModel(network(code)).strange is not None
    assert PlainModel(network(code)).exposed == {}


def test_a_text_at_the_left_margin_is_read() -> None:
    code = 'def probe(self, x):\n    """Text.\nAnd more.\n"""\n    return x'
    body = "class Net(Above):\n" + textwrap.indent(
        code, "    ", lambda line: line[:3] not in ("And", '"""')
    )
    assert PlainModel(network(body)).strange is None


def test_a_file_that_changed_since_its_import_is_not_believed() -> None:
    net = network("return x")
    file = type(net).probe.__code__.co_filename
    size, time, lines, name = linecache.cache[file]  # type: ignore[misc]
    assert lines[-1] == "        return x\n"
    for changed in ("        return x + 1\n", "        return (\n", ""):
        linecache.cache[file] = (size, time, [*lines[:-1], changed], name)
        assert "source" in str(PlainModel(net).strange), changed
    linecache.cache[file] = (0, None, [], name)
    assert "cannot be read" in str(PlainModel(net).strange)
    linecache.cache[file] = (size, time, lines, name)
    assert PlainModel(net).strange is None


def test_a_function_of_a_file_that_postpones_annotations() -> None:
    """Whose code is another one: its flags say so."""
    source = f"from __future__ import annotations\n{_HEAD}\n{_BODY}        return x\n"
    assert PlainModel(python_module("made_by_test_plain_forms", source).Net()).strange is None
