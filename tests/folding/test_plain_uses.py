"""What one method does with a module that it names, and whose result another module is given."""

from __future__ import annotations

import itertools
import textwrap
from typing import Any

import pytest
from support import python_module
from torch import nn

from bnfx.folding.modules.plain.module_uses import Use, use_of
from bnfx.folding.modules.plain.plain_function import PlainFunction
from bnfx.folding.modules.plain.source import Sources
from bnfx.folding.modules.plain.straight_line import argument_of

_NUMBER = itertools.count()
_HEAD = """
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
class Net(nn.Module):
    def probe(self, x, d, f):
"""


class Stages(nn.ModuleDict):
    def values(self) -> Any:
        return [layer for stage in super().values() for layer in stage]  # type: ignore[attr-defined]


MODULES = {
    "block": nn.Sequential(nn.ReLU(), nn.ReLU()),
    "rows": nn.ModuleList([nn.ReLU()]),
    "table": nn.ModuleDict({"k": nn.Sequential(nn.ReLU())}),
    "stages": Stages(),
}


def method(code: str) -> PlainFunction:
    body = textwrap.indent(code, " " * 8)
    module = python_module(f"made_by_test_plain_uses_{next(_NUMBER)}", f"{_HEAD}{body}\n")
    function = PlainFunction(module.Net.probe, Sources(), module.Net, module.Net)
    assert function.strange is None, function.strange
    return function


def use(code: str) -> Use:
    """Of the one module that the code names."""
    function = method(code)
    ((name, (node,)),) = [(n, nodes) for n, nodes in function.uses.items() if n in MODULES]
    return use_of(function, node, MODULES[name])


USES = {
    Use.ASKED: [
        *("self.block is None", "None is not self.block", "x if self.block else d"),
        *("not self.block", "len(self.rows)", "self.block is True"),
        "if self.block:\n    x = d",
    ],
    Use.SET: ["self.block = x", "self.block, x = x, d", "for self.block in x:\n    pass"],
    Use.RUN: [
        *("self.block(x)", "checkpoint(self.block, x)", "checkpoint_sequential(self.block, 2, x)"),
        *(
            "checkpoint_sequential([self.block], 1, x)",
            "checkpoint_sequential((x, self.block), 1, x)",
        ),
        *("self.rows[0](x)", "checkpoint(self.rows[0], x)", "[m(x) for m in self.rows]"),
        *("[m(x) for i, m in enumerate(self.rows)]", "[m(x) for i, m in enumerate(self.rows, 1)]"),
        *(
            "[m(x) for i, m in enumerate(self.rows, start=1)]",
            "[m(x) for m in reversed(self.rows)]",
        ),
        *("[m(i) for i, m in zip(x, self.rows)]", "[m(i) for m, i in zip(self.rows, x, strict=1)]"),
        *("[m(x) for m in self.table.values()]", "[m(x) for k, m in self.table.items()]"),
        *("[m(x) for *k, m in self.table.items()]", "self.table['k'](x)"),
        "for m in self.rows:\n    x = m(m(x))",
        "for m in self.table.values():\n    x = checkpoint(m, x)",
    ],
    Use.EXPOSED: [
        *(
            "f(self.block)",
            "f(x, self.block)",
            "f(k=self.block)",
            "f(*self.rows)",
            "x = self.block",
        ),
        *("self.block is x", "x is self.block is None", "self.block == None", "d[self.block]"),
        *("None is self.block == None", "self.block is None != True", "-self.block"),
        *("x if x else self.block", "self.block[0](x)", "[m(x) for m in self.block]"),
        *("[self.block]()", "[self.block](x)", "checkpoint(x, self.block)", "(x, self.block)"),
        *("f([self.block], x)", "self.block.k(x)"),
        *("self.block.values()", "[m(x) for m in self.block.values()]", "f(self.rows)"),
        *("d[self.rows](x)", "self.rows[0]", "self.rows[0][0](x)", "f(self.rows[0], x)"),
        *(
            "[m(x) for m in x if self.rows]",
            "[m[0](x) for m in self.rows]",
            "[d for d in self.rows]",
        ),
        *(
            "[m(x) for m in f(self.rows)]",
            "list(enumerate(self.rows))",
            "[m for m, in [self.rows]]",
        ),
        *("[m(x) for i, m in d if enumerate(self.rows)]", "[i(x) for i in enumerate(self.rows)]"),
        *(
            "[x for i, m in enumerate(self.rows) if m is x]",
            "[m(x) for i, m in zip(*[x], self.rows)]",
        ),
        *("[x for i, in zip(x, self.rows)]", "[m(x) for *i, m in zip(x, self.rows)]"),
        *("[m(x) for [i, m] in enumerate(self.rows)]", "[m(x) for i, m in reversed(self.rows)]"),
        *("[x for i, d[0] in enumerate(self.rows)]", "[x for d[0] in self.rows]"),
        *("self.table.k(x)", "[d[m] for m in self.table]", "self.table.values()", "self.table.pop"),
        *("[m(x) for m in self.table.values[0]]", "[m(x) for m in x if self.table.values()]"),
        *("[m(x) for m in self.table.pop('k')]", "[m(x) for a, m in self.table.pop('k')]"),
        *(
            "[m(x) for m in self.table.items()]",
            "[m(x) for k, m in self.table.items() if m is x]",
        ),
        *("[m(x) for m in f(self.table.values())]", "[k(m) for k, m in self.table.items()]"),
        *("[m(x) for m in self.stages.values()]", "[x for d[0] in self.table.values()]"),
        "self.block += x",
        "for m in self.rows:\n    m += x\n    m(x)",
        "for m in self.rows:\n    m(x)\n    m[0](x)",
        "for m in self.rows:\n    m(x)\nreturn m",
    ],
}


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize(("code", "what"), [(code, what) for what in USES for code in USES[what]])
def test_what_is_done_with_a_module(code: str, what: Use) -> None:
    assert use(code) is what


def test_another_function_by_the_name_of_len_is_given_the_module() -> None:
    function = method("for len in d:\n    x = len(self.rows)")
    assert use_of(function, function.uses["rows"][0], MODULES["rows"]) is Use.EXPOSED


# Of ``c``, whose result ``b`` is given, and nobody else.
GIVEN = [
    "return self.b(self.c(x))",
    "y = self.c(x)\nreturn self.b(y)",
    "y = self.c(x)\nz = d\nreturn self.b(y) + x",
    "y: object = self.c(x)\ny: object = self.b(y)\nreturn y + y",
    "y = self.c(x)\nz = x[0]\nreturn self.b(y)",
    "y = self.c(x)\nself.b(y)",
    "y = self.c(x)\ny, z = self.b(y), x\nreturn y + y",
    "y = self.c(x)\nz, (y, [w]) = x, (self.b(y), [x])\nreturn y + y",
    "y = self.c(x)\nself.k, y = 1, self.b(y)\nreturn y + y",
    "y = self.c(x)\nreturn torch.relu(self.b(y)).add(x) + f(x)",
    "y = self.c(x)\nreturn f(*d, self.b(y))",
    "y = self.c(x)\nreturn f(x, k=self.b(y))",
    "for i in x:\n    pass\nelse:\n    y = self.c(x)\n    x = self.b(y)\nreturn x",
    "if x is None:\n    y = d\n    return y\ny = self.c(x)\nreturn self.b(y)",
    "y = self.c(x)\nw = self.b(y)\nx[0] += 1\nreturn w",
    "y = self.c(x)\nassert self.b(y) is not None",
    "with torch.no_grad():\n    y = self.c(x)\n    x += self.b(y)",
]
# Nobody's: it may be another's, others may have it, or something may run between the two.
NOBODYS = [
    *("f(self.b)", "self.b(x)", "self.b(x[0])", "self.b()", "self.b(self.c)", "self.b(f(x))"),
    *(
        "self.b(d.c(x))",
        "self.b(self.block.c(x))",
        "self.b(self.c(x), 1)",
        "self.b(self.c(x), k=1)",
    ),
    *("self.b(*self.c(x))", "self.b(self.c(*x))", "self.b(self.c(x, 1))", "self.b(self.c(k=x))"),
    "y = d.c(x)\nself.b(y)",
    "y = self.c(*x)\nself.b(y)",
    "y = self.c\nself.b(y)",
    "y = x\nz = self.c(x)\nself.b(y)",
    "y = self.c(x)\nreturn self.b(y) + y",
    "y = self.c(x)\nz = self.b(y)\nreturn y",
    "y = z = self.c(x)\nreturn self.b(y) + z",
    "y, z = self.c(x)\nreturn self.b(y)",
    "y = self.c(x)\nz = y\nself.b(y)",
    "y = self.c(x)\nself.k = y\nreturn self.b(y)",
    "y = self.c(x)\ny, z = x\nreturn self.b(y)",
    "self.k = self.b",
    "y = self.c(x)\nz = f(x)\nself.b(y)",
    "y = self.c(x)\nx += 1\nself.b(y)",
    "y = self.c(x)\nx[0] = 1\nself.b(y)",
    "y = self.c(x)\nfor i in x:\n    pass\nself.b(y)",
    "y = self.c(x)\nif x is None:\n    y = d\nself.b(y)",
    "y = self.c(x)\nif x is None:\n    self.b(y)",
    "y = self.c(x)\nfor d[self.b(y)] in x:\n    pass",
    "y = self.c(x)\nw = self.b(y)\ny += 1\nreturn w",
    "y = self.c(x)\ny += self.b(y)",
    "y = self.c(x)\nreturn f(x) + self.b(y)",
    "y = self.c(x)\nreturn f(k=self.b(y), *d)",
    "y = self.c(x)\nreturn f(x, k=self.b(y), *d)",
    "y = self.c(x)\nreturn x if x is None else self.b(y)",
    "y = self.c(x)\nreturn x is None or self.b(y)",
    "y = self.c(x)\nreturn [self.b(y) for i in x]",
    "y = self.c(x)\nreturn sum(self.b(y) for i in x)",
    "for i in x:\n    z = self.b(y)\n    y = self.c(x)",
]


def _givers(code: str) -> list[str | None]:
    function = method(code)
    found = [argument_of(function, node) for node in function.uses["b"]]
    return [None if each is None else each.attr for each in found]


@pytest.mark.parametrize("code", GIVEN)
def test_whose_result_it_is(code: str) -> None:
    assert _givers(code) == ["c"]


@pytest.mark.parametrize("code", NOBODYS)
def test_whose_result_it_may_not_be(code: str) -> None:
    assert _givers(code) == [None]
