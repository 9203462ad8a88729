"""What the code of a model says of two layers: small sources, and whether one follows the other.

Each is the rest of a class that has layers ``c`` and ``b``, among others. ``folds``: it is proved
that ``b`` is given what ``c`` returns, always, and that nobody else is, and that nothing else looks
at what a fold changes.
"""

from __future__ import annotations

import itertools
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from support import python_module
from torch import nn

from bnfx.folding.modules.succession import Pair, Places, Succession

SOURCES = Path(__file__).with_name("sources")
_HEAD = (SOURCES / "head.txt").read_text()
_PLAIN = """
def forward(self, x):
    return self.b(self.c(x))
"""
_NUMBER = itertools.count()


def model(code: str) -> Any:
    """An instance of the class, whose source can be read."""
    body = textwrap.dedent(code).strip()
    if "def forward" not in body:
        body = _PLAIN + body
    source = f"{_HEAD}\nclass Net(Base):\n{textwrap.indent(body, '    ')}\n"
    return python_module(f"made_by_test_plain_succession_{next(_NUMBER)}", source).Net().eval()


def says(code: str, first: str = "c", second: str = "b") -> bool:
    return Pair(first, second) in Succession(Places(model(code))).pairs()


def _sources(name: str) -> list[str]:
    text = (SOURCES / f"{name}.txt").read_text()
    return [each.strip("\n") for each in text.split("\n---\n")]


FOLDS = _sources("proved")


@pytest.mark.parametrize("code", FOLDS)
def test_what_is_proved(code: str) -> None:
    assert says(code)


STAYS = _sources("not_proved") + _sources("not_proved_uses")
NOT_PLAIN = _sources("not_plain")


@pytest.mark.parametrize("code", STAYS)
def test_what_is_not_proved(code: str) -> None:
    assert not says(code)


@pytest.mark.parametrize("code", NOT_PLAIN)
def test_what_would_be_right_but_is_not_plain(code: str) -> None:
    """Answers would not change. To know that, one would have to read what the code means."""
    assert not says(code)


OF_A_BLOCK = _sources("not_proved_of_a_block")


@pytest.mark.parametrize("code", OF_A_BLOCK)
def test_what_is_not_proved_of_a_block(code: str) -> None:
    """Whose layers nobody names by ``self.c``."""
    assert not says(code, "block.c", "block.b")


HANDED_ON = [
    *("copy.copy(self.block)", "torch.jit.trace(self.block, x)", "sum(f(m) for m in [self.block])"),
    *("map(str, [self.block])", "(lambda: self.block)()", "dict(a=self.block)", "{1: self.block}"),
    *("[self.block] + []", "f(*[self.block])", "f(m=self.block)", "f(x, self.block)"),
    *("self.tool.run(self.block)", "self.block", "(x, self.block)", "types.g(self.block)"),
    *("[m(x) for m in (self.block, self.seq)]", "[m(x) for i, m in enumerate([self.block])]"),
    *("(self.block if x is None else self.seq)(x)", "runs(self.block, x)"),
    "isinstance(self.block, nn.Linear)",
    *(
        "f([m for m in (self.block, x)])",
        "f(next(iter([self.block])))",
        "max((self.block,), key=f)",
    ),
    *("f(self.holders['a'])", "f(getattr(self, 'block'))", "f(self.block if x else x)"),
    *("[f(m) for _, m in self.holders.items()]", "[f(m) for m in self.holders.values()]"),
    *("(kept := self.block, f(kept))", "f(self.block or x)", "f(*self.lists)", "f(self.lists[:1])"),
    *("[g(i) for i in enumerate(self.lists)]", "f(tuple(self.lists))", "KEPT.append(self.block)"),
    *("self.kept.append(self.block)", "setattr(self, 'kept', self.block)"),
]
FOLLOWED = [
    *("self.block(x)", "checkpoint(self.block, x)", "[m(x) for m in reversed(self.lists)]"),
    *("self.lists[0](x)", "[m(x[i]) for i, m in enumerate(self.lists)]", "len(self.lists)"),
    *("[m(x) for _, m in self.holders.items()]", "[m(x) for m in self.holders.values()]"),
    *("[m(y) for m, y in zip(self.lists, x)]", "checkpoint(self.lists[0], x)", "gone(x)"),
    *("self.block is None", "1 if self.block else 2", "not self.block"),
]
_HOLDING = """
def fill(self):
    self.lists, self.holders = nn.ModuleList([Block()]), nn.ModuleDict({"a": Block()})
"""


def _says_of_a_block(probe: str) -> bool:
    """Of the one that the code names."""
    path = (
        "lists.0" if "self.lists" in probe else "holders.a" if "self.holders" in probe else "block"
    )
    return says(probe + _HOLDING, f"{path}.c", f"{path}.b")


@pytest.mark.parametrize("code", HANDED_ON)
def test_a_block_that_is_handed_on(code: str) -> None:
    """To a function that is not read, which may do anything with it."""
    assert not _says_of_a_block(f"def probe(self, x, f=print, g=print):\n    return {code}\n")


def test_a_block_that_is_kept_under_another_name() -> None:
    for target in ("self.kept", "x.kept", "self.kept[0]", "(self.kept, self.block)"):
        assert not says(f"def keep(self, x):\n    {target} = self.block\n", "block.c", "block.b")


def test_another_may_take_the_place_of_a_block_but_not_of_a_layer() -> None:
    for code in ("self.block = x", "self.block = Block()"):
        assert says(f"def put(self, x):\n    {code}\n", "block.c", "block.b")
    assert not says("def put(self, x):\n    self.block += x\n", "block.c", "block.b")
    for code in ("self.b = x", "self.c = nn.Conv2d(3, 3, 1)"):
        assert not says(f"def put(self, x):\n    {code}\n")


@pytest.mark.parametrize("code", FOLLOWED)
def test_a_block_that_stays_in_sight(code: str) -> None:
    assert _says_of_a_block(f"def probe(self, x):\n    {code}\n")


CONTAINERS = _sources("containers_run_whole")
OPENED = [
    ("seq", "self.seq[0](x)"),
    ("seq", "self.seq[:1](x)"),
    ("seq", "[layer(x) for layer in self.seq]"),
    ("seq", "sum(layer(x) for layer in self.seq)"),
    ("seq", "list(self.seq)[0](x)"),
    ("seq", "checkpoint(x, self.seq)"),
    ("seq", "partial(self.seq, x)"),
    ("seq", "(self.seq, 1)[0](x)"),
    ("seq", "self.seq.append(nn.ReLU())"),
    ("seq", "getattr(self.seq, '0')(x)"),
    ("seq", "next(self.seq.children())(x)"),
    ("rows.0", "self.rows[0][0](x)"),
    ("rows.0", "self.rows[:1]"),
    ("rows.0", "[row[0](x) for row in self.rows]"),
    ("rows.0", "[row for row in self.rows]"),
    ("rows.0", "[row[0](x) for _, row in enumerate(self.rows)]"),
    ("rows.0", "[row[0](x) for _, row in zip([1], self.rows)]"),
    ("rows.0", "[row[1][0](x) for row in enumerate(self.rows)]"),
    ("rows.0", "[(first(x), last) for first, last in self.rows]"),
    ("rows.0", "[row[0](x) for row in reversed(self.rows)]"),
    ("rows.0", "list(self.rows)"),
    ("rows.0", "[i[1][0](x) for *i, row in zip([1], self.rows, [x])]"),
    ("rows.0", "[row(x) for i, row in zip(*[[1]], self.rows)]"),
    ("rows.0", "[kept[0](x) for kept in {row: 1 for row in self.rows}]"),
    ("rows.0", "[table[row] for row in self.rows]"),
    ("rows.0", "[row == x for row in self.rows]"),
    ("rows.0", "[row(x) for i, row in dict(self.rows)]"),
    ("table.k", "self.table['k'][0](x)"),
    ("table.k", "[row[0](x) for row in self.table.values()]"),
    ("table.k", "[row[0](x) for _, row in self.table.items()]"),
    ("table.k", "[row[1][0](x) for row in self.table.items()]"),
    ("table.k", "self.table.values()"),
    ("table.k", "dict(self.table)"),
    ("table.k", "self.table.pop('k')"),
]


@pytest.mark.parametrize("code", CONTAINERS)
@pytest.mark.parametrize("path", ["seq", "rows.0", "table.k"])
def test_containers_that_are_run_whole(code: str, path: str) -> None:
    assert says(code, f"{path}.0", f"{path}.1")


@pytest.mark.parametrize(("path", "code"), OPENED)
def test_containers_that_are_opened(path: str, code: str) -> None:
    text = f"def forward(self, x):\n    return self.seq(x)\ndef probe(self, x):\n    return {code}"
    assert not says(text, f"{path}.0", f"{path}.1")
    others = {"seq", "rows.0", "table.k"} - {path}
    if not any(strange in code for strange in ("children", "getattr", "{", "table[row]")):
        assert all(says(text, f"{other}.0", f"{other}.1") for other in others)


def test_layers_that_are_no_layers() -> None:
    net = model("pass")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is on its way out
        net.s = torch.jit.trace(nn.ReLU(), torch.ones(1))
    found = Places(net)
    assert "TorchScript" in str(found.refuse("s"))
    assert "registered" in str(found.refuse("nowhere"))
    assert isinstance(model("pass").c, nn.Conv2d)
