"""What the code of a model says of two layers: small sources, and whether one follows the other.

Each is the rest of a class that has layers ``c`` and ``b``, among others. ``folds``: it is proved
that ``b`` is given what ``c`` returns, always, and that nobody else is, and that nothing else looks
at what a fold changes.
"""

from __future__ import annotations

import itertools
import linecache
import textwrap
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from bnfx.folding.modules.succession import Pair, Succession

_HEAD = """
import builtins, contextlib, copy, functools, inspect, logging, operator, os, types, weakref
import torch
from functools import partial
from operator import attrgetter, methodcaller
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

log = logging.getLogger("net")
NAME = "c"
asks = getattr
KEPT = []

def count(module):
    total = 0
    for each in module.parameters():
        total += each.numel()
    return total

def runs_c(module, x):
    return module.c(x)

def runs_first(module, x):
    return next(module.children())(x)

def names_other(module, x):
    return module.other(x)

def names_itself(module, x):
    return names_itself(module, x) if x is None else module.other(x)

def runs_by_another_name(module, x):
    again = module
    return again.c(x)

def changes(module, x):
    module = x
    return module

def init_layer(layer):
    layer.weight.data.zero_()

def optimal(weights):
    return 1

@contextlib.contextmanager
def swallowing():
    try:
        yield
    except Exception:
        pass

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.other = nn.Conv2d(3, 3, 1)
        self.seq = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.rows = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))])
        self.table = nn.ModuleDict({"k": nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))})
        self.fill()
    def fill(self):
        pass
"""
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
    name = f"/made/by/test_reading_{next(_NUMBER)}.py"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    space: dict[str, Any] = {"__name__": "made_by_test_reading"}
    exec(compile(source, name, "exec"), space)
    return space["Net"]().eval()


def says(code: str, first: str = "c", second: str = "b") -> bool:
    found = Succession(model(code))
    folds = Pair(first, second) in found.pairs()
    return folds and not found.refuse(first) and not found.refuse(second)


def _split(text: str) -> list[str]:
    return [each.strip("\n") for each in text.split("\n---\n")]


FOLDS = _split(
    """
def forward(self, x):
    "c"
    assert hasattr(self, "c")
    return self.b(self.c(x))
---
def forward(self, x):
    names, more = ("other", "seq"), ("other",)
    for name in ("other",):
        x = getattr(self, name)(x)
    return self.b(self.c(x))
---
def forward(self, x):
    names = ("other", "seq", "other")
    names = names[1:]
    for name in names:
        x = getattr(self, name)(x)
    return self.b(self.c(x))
---
def set(self):
    if isinstance(self.b, nn.BatchNorm2d):
        self.c.requires_grad = True
        self.b.eval()
    elif hasattr(self.c, "bias"):
        raise ValueError("no bias")
    else:
        pass
---
def train(self, mode=True):
    known = other = isinstance(self.b, nn.BatchNorm2d)
    return super().train(mode)
---
def probe(self, x):
    self.c.train(False)
    self.c.train(self.training)
---
def forward(self, x):
    return self.b(self.c(x))
---
def forward(self, x):
    y = self.c(x)
    return self.b(y)
---
def forward(self, x):
    y: torch.Tensor = self.c(x)
    y = self.b(y)
    return y
---
def forward(self, x):
    for _ in range(2):
        y = self.c(x)
        x = self.b(y)
    return x
---
def forward(self, x):
    x = self.c(x)
    z = x_size = 3
    assert z
    x = self.b(x)
    return x
---
def forward(self, x):
    with torch.no_grad():
        return self.b(self.c(x))
---
def forward(self, x):
    return self.run(x)
def run(self, x):
    if x.sum() > 0:
        x = self.b(self.c(x))
    return x
---
def forward(self, x):
    return self.b(self.c(x)) if self.c is not None else x
---
def forward(self, x):
    print(self, self.b)
    return self.b(self.c(x)) * self.c.out_channels * self.b.training
---
def forward(self, x):
    return self.b(self.c(x)).to(self.c.weight.dtype).to(next(self.parameters()).device)
---
def forward(self, x):
    first = next(self.parameters())
    return self.b(self.c(x)).to(first.dtype)
---
def forward(self, x):
    return self.b(self.c(x)) + self.rows[0](x) + self.table["k"](x) + self.seq(x)
---
def forward(self, x):
    for row in self.rows:
        x = row(x)
    for _, row in self.table.items():
        x = row(x)
    for row in self.table.values():
        x = row(x)
    for _, row in enumerate(self.rows):
        x = row(x)
    for row in reversed(self.rows):
        x = row(x)
    return self.b(self.c(x))
---
def forward(self, x):
    return self.b(self.c(x)) + getattr(self, "other")(x) + getattr(self, f"o{'ther'}")(x)
---
def forward(self, x):
    for name in ("other", "seq"):
        x = getattr(self, name)(x)
    return self.b(self.c(x))
---
def forward(self, x):
    return self.b(self.c(x)) + names_other(self, x)
---
def count(self):
    return sum(p.numel() for p in self.parameters())
---
def count(self, trained=False):
    return count(self)
---
def kinds(self):
    return [type(each).__name__ for each in self.children() if False]
def forward(self, x):
    return self.b(self.c(x))
def kinds(self):
    return 1
---
def train(self, mode=True):
    super().train(mode)
    self.b.train(False)
    for each in self.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.eval()
    return self
---
def freeze(self):
    for each in self.parameters():
        each.requires_grad = False
    for module in self.modules():
        module.eval()
    self.c.weight.requires_grad_(False)
    self.b.eval()
    self.c.requires_grad_(False)
---
def optimizer(self):
    return torch.optim.SGD(self.parameters(), lr=0.1)
---
def init_weights(self):
    if isinstance(self.b, nn.BatchNorm2d):
        nn.init.ones_(self.b.weight)
    init_layer(self.c)
    self.apply(self._init)
def _init(self, module):
    if isinstance(module, nn.Conv2d):
        nn.init.zeros_(module.weight)
---
def save(self, path):
    torch.save(self.state_dict(), path)
---
def load_from(self, path):
    known = self.state_dict()
    self.load_state_dict({k: v for k, v in torch.load(path).items() if k in known})
---
def __repr__(self):
    return f"{self.b} behind {self.c}"
---
def extra_repr(self):
    return repr(self.b)
---
def forward(self, x):
    return checkpoint(self.seq, x, use_reentrant=False) + self.b(self.c(x))
---
def forward(self, x):
    return torch.vmap(self.seq)(x) + self.b(self.c(x))
---
def forward(self, x):
    assert isinstance(self.b, nn.BatchNorm2d), "another"
    if not isinstance(self.b, nn.BatchNorm2d):
        raise TypeError
    return self.b(self.c(x))
---
def forward(self, x):
    x = x * x.size(0) + F.conv2d(x, x)
    return nn.functional.relu(self.b(self.c(x)))
---
def fill(self):
    self.given = partial(torch.add, 1)
    self.fn = torch.relu
---
def forward(self, x):
    self.now = nn.Conv2d(3, 3, 1) if self.training else None
    self.size, self.kept = 1, "a b"
    self.total = self.size + 1
    return self.b(self.c(x))
---
def set(self, n):
    self.head = nn.Linear(3, n)
    setattr(self, "head", nn.Linear(3, n))
"""
)


@pytest.mark.parametrize("code", FOLDS)
def test_what_is_proved(code: str) -> None:
    assert says(code)


STAYS = _split(
    """
def forward(self, x):
    global names
    names = ("other",)
    for name in names:
        x = getattr(self, name)(x)
    return self.b(self.c(x))
---
def forward(self, x, names=("other",)):
    for name in names:
        x = getattr(self, name)(x)
    return self.b(self.c(x))
---
def forward(self, x):
    names = (("c",),)
    names = names[0]
    for name in names:
        x = getattr(self, name)(x)
    return self.b(self.c(x))
---
def forward(self, x):
    names = ["c"]
    for name in names:
        x = getattr(self, name)(x)
    return self.b(self.c(x))
---
def forward(self, x):
    name = NAME
    for name in ("other",):
        pass
    return self.b(self.c(x)) + getattr(self, name)(x)
---
def forward(self, x):
    return self.b(self.c(x)) + getattr(self, "%s" % NAME)(x)
---
def forward(self, x):
    manager = swallowing()
    with manager:
        y = self.c(x)
        y = self.b(y)
    return y
---
def forward(self, x):
    with torch.no_grad(), swallowing():
        y = self.c(x)
        y = self.b(y)
    return y
---
def set(self):
    if isinstance(self.b, nn.BatchNorm2d):
        self.flag = self.c.requires_grad = True
---
def set(self):
    if isinstance(self.b, nn.BatchNorm2d):
        self.c.bias
        self.flag = 1
---
def train(self, mode=True):
    known = self.known = isinstance(self.b, nn.BatchNorm2d)
    return super().train(mode)
---
def train(self, mode=True):
    known, self.known = 1, isinstance(self.b, nn.BatchNorm2d)
    return super().train(mode)
---
def forward(self, x):
    return self.b(self.c(x)) + runs_by_another_name(self, x)
---
def forward(self, x):
    return self.b(self.c(x)) + changes(self, x)
---
def forward(self, x):
    return self.b(self.c(x)) + names_itself(self, x)
---
def forward(self, x):
    return self.b(self.c(x)) + names_other(x=x, module=self)
---
def forward(self, x):
    return self.b(self.c(x)) + names_other(*[self, x])
---
def probe(self, x):
    self.c.train(x)
---
def probe(self, x):
    self.c.train(mode=self.training)
---
def probe(self, x):
    return map(self.c.train, x)
---
def probe(self, x):
    return self.apply
---
def probe(self, x):
    return self.parameters
---
def probe(self, x):
    return [*self.parameters()]
---
def probe(self, x):
    first, second, *_ = self.parameters()
    return first
---
def probe(self, x):
    return [self.parameters() for _ in x]
---
def probe(self, x):
    return self.modules
---
def probe(self, x):
    return enumerate(self.modules())
---
def probe(self, x):
    while True:
        y = self.c(x)
        if x is None:
            break
        x = self.b(y)
    return y
---
def forward(self, x):
    return self.b(self.c(x)) + self.c(x)
---
def forward(self, x):
    y = self.c(x)
    return self.b(y) + y
---
def forward(self, x):
    y = self.c(x)
    z = self.b(y)
    return z + y
---
def forward(self, x):
    y = self.c(x)
    y += 1
    return self.b(y)
---
def forward(self, x):
    y = self.c(x)
    y += self.b(y)
    return y
---
def forward(self, x):
    y = self.c(x)
    x = x + y
    return self.b(y)
---
def forward(self, x):
    y = self.c(x)
    if x is None:
        y = x
    return self.b(y)
---
def forward(self, x):
    if x is not None:
        y = self.c(x)
    return self.b(y)
---
def forward(self, x):
    y = z = self.c(x)
    return self.b(y) + z
---
def forward(self, x):
    y, = [self.c(x)]
    return self.b(y)
---
def forward(self, x):
    y = self.c(x), 1
    return self.b(y)
---
def forward(self, x):
    return self.b(self.c(x), 1)
---
def forward(self, x):
    return self.b(self.c(x), out=x)
---
def forward(self, x):
    return self.b(*self.c(x))
---
def forward(self, x):
    return self.b(self.c(x, 1))
---
def forward(self, x):
    return self.b(self.c(input=x))
---
def forward(self, x):
    return self.b(self.c(*x))
---
def forward(self, x):
    return self.b(input=self.c(x))
---
def forward(self, x):
    y = self.c(x, 1)
    return self.b(y)
---
def forward(self, x):
    y = self.c
    return self.b(y(x))
---
def forward(self, x):
    return self.b(torch.relu(self.c(x)))
---
def forward(self, x):
    return self.b((y := self.c(x))) + y
---
def forward(self, x):
    y = self.c(x)
    return [self.b(y) for _ in range(2)]
---
def forward(self, x):
    y = self.c(x)
    return (lambda: self.b(y))()
---
def forward(self, x):
    y = self.c(x)
    def later():
        return y
    return self.b(y) + later()
---
def forward(self, x):
    def inner():
        nonlocal x
        x = self.c(x)
        return self.b(x)
    return inner() + x
---
def forward(self, x):
    global kept
    kept = self.c(x)
    return self.b(kept)
---
def forward(self, x):
    y = self.c(x)
    yield
    yield self.b(y)
---
def forward(self, x):
    try:
        y = self.c(x)
        return self.b(y)
    except Exception:
        return y
---
def forward(self, x):
    with swallowing():
        y = self.c(x)
        y = self.b(y)
    return y
---
def forward(self, x):
    class Kept:
        y = self.c(x)
        z = self.b(y)
    return Kept.y
---
def forward(self, x):
    for i in range(2):
        if i:
            x = x + y
        y = self.c(x)
        x = self.b(y)
    return x
---
def forward(self, x):
    y = self.c(x)
    return x if x is None else self.b(y)
---
def forward(self, x):
    y = self.c(x)
    return x is None or self.b(y)
---
def forward(self, x):
    c = self.c
    return self.b(self.c(x)) + c(x)
---
def forward(self, x):
    return self.b(self.c(x)) + runs_c(self, x)
---
def forward(self, x):
    return self.b(self.c(x)) + runs_first(self, x)
---
def forward(self, x):
    return self.b(self.c(x)) + getattr(self, NAME)(x)
---
def forward(self, x):
    return self.b(self.c(x)) + getattr(self, "" + "c")(x)
---
def forward(self, x):
    return self.b(self.c(x)) + getattr(self, f"{'c'}")(x)
---
def forward(self, x):
    return self.b(self.c(x)) + asks(self, NAME)(x)
---
def forward(self, x):
    return self.b(self.c(x)) + builtins.getattr(self, NAME)(x)
---
def forward(self, x):
    for name in ("c", "other"):
        x = getattr(self, name)(x)
    return self.b(self.c(x))
---
def forward(self, x):
    names = ("other",)
    names = names[:1] if x is not None else [NAME]
    for name in names:
        x = getattr(self, name)(x)
    return self.b(self.c(x))
---
def forward(self, x, name="c"):
    return self.b(self.c(x)) + getattr(self, name)(x)
---
def forward(self, x):
    return self.b(self.c(x)) + attrgetter(NAME)(self)(x)
---
def forward(self, x):
    return self.b(self.c(x)) + methodcaller("get_submodule", NAME)(self)(x)
---
def forward(self, x):
    return self.b(self.c(x)) + self.get_submodule(NAME)(x)
---
def forward(self, x):
    return self.b(self.c(x)) + self.__getattr__(NAME)(x)
---
def forward(self, x):
    return self.b(self.c(x)) + vars(self)["_modules"]["c"](x)
---
def forward(self, x):
    return self.b(self.c(x)) + self.__dict__["_modules"][NAME](x)
---
def forward(self, x):
    return self.b(self.c(x)) + self._modules[NAME](x)
---
def forward(self, x):
    return self.b(self.c(x)) + next(self.children())(x)
---
def forward(self, x):
    return self.b(self.c(x)) + list(self.modules())[1](x)
---
def forward(self, x):
    for layer in self.children():
        x = layer(x)
    return self.b(self.c(x))
---
def forward(self, x):
    for _, layer in enumerate(self.children()):
        x = layer(x)
    return self.b(self.c(x))
---
def forward(self, x):
    return self.b(self.c(x)) * eval("self.c(x)")
---
def forward(self, x):
    return self.b(self.c(x)) + locals()["self"].__class__(x)
---
def forward(self, x):
    first, *rest = [self]
    return self.b(self.c(x)) + first.c(x)
---
def forward(self, x):
    row = self
    return self.b(self.c(x)) + row.c(x)
---
def forward(self, x):
    return self.b(self.c(x)) * self.c.weight.sum()
---
def forward(self, x):
    return self.b(self.c(x)) * self.b.running_mean.sum()
---
def forward(self, x):
    return self.b(self.c(x)) * self.b.num_features
---
def forward(self, x):
    return self.b(self.c(x)) * (self.b.weight.dtype == torch.float32)
---
def forward(self, x):
    self.c.weight.mul_(2)
    return self.b(self.c(x))
---
def forward(self, x):
    self.c.stride = (2, 2)
    return self.b(self.c(x))
---
def forward(self, x):
    self.c.train()
    return self.b(self.c(x))
---
def forward(self, x):
    self.b.train(self.other.training)
    return self.b(self.c(x))
---
def forward(self, x):
    self.training = True
    self.b.train(self.training)
    return self.b(self.c(x))
---
def forward(self, x):
    return self.b(self.c(x)) * isinstance(self.b, nn.BatchNorm2d)
---
def forward(self, x):
    if isinstance(self.b, nn.BatchNorm2d):
        x = x * 2
    return self.b(self.c(x))
---
def forward(self, x):
    return self.b(self.c(x)) * (type(self.b) is nn.BatchNorm2d)
---
def forward(self, x):
    return self.b(self.c(x)) * hasattr(self.b, "weight")
---
def forward(self, x):
    return self.b(self.c(x)) * len(str(self))
---
def forward(self, x):
    return self.b(self.c(x)) * len(f"{self.b}")
---
def forward(self, x):
    return self.b(self.c(x)) * len(self.extra_repr())
def extra_repr(self):
    return repr(self.b)
---
def forward(self, x):
    return self.b(self.c(x)) * (self.b in KEPT)
---
def forward(self, x):
    return self.b(self.c(x)) * (self.c.bias is None)
---
def forward(self, x):
    return self.b(self.c(x)) * (getattr(self.c, "bias", None) is None)
---
def forward(self, x):
    try:
        assert isinstance(self.b, nn.BatchNorm2d)
    except AssertionError:
        x = x * 2
    return self.b(self.c(x))
---
def forward(self, x):
    return self.b(self.c(x)) * count(self)
---
def forward(self, x):
    return self.b(self.c(x)) * sum(p.numel() for p in self.parameters())
---
def forward(self, x):
    return self.b(self.c(x)) * len(list(self.buffers()))
---
def forward(self, x):
    for p in self.parameters():
        p.requires_grad = False
    return self.b(self.c(x)) * p.sum()
---
def forward(self, x):
    for name, p in self.named_parameters():
        p.requires_grad = False
    return self.b(self.c(x)) * len(name)
---
def forward(self, x):
    for p in self.parameters():
        x = x * p.dim()
    return self.b(self.c(x))
---
def forward(self, x):
    return self.b(self.c(x)) * optimal(self.parameters())
---
def forward(self, x):
    return self.b(self.c(x)) * next(self.parameters()).sum()
---
def forward(self, x):
    return self.b(self.c(x)) * next(self.b.parameters()).dim()
---
def forward(self, x):
    return self.b(self.c(x)).to(next(self.b.parameters()).dtype)
---
def forward(self, x):
    return self.b(self.c(x)).to(next(self.buffers()).dtype)
---
def probe(self, x):
    return x * sum(p.numel() for p in self.parameters())
---
def forward(self, x):
    return self.b(self.c(x)) * self.init_weights()
def init_weights(self):
    return 2 if isinstance(self.b, nn.BatchNorm2d) else 3
---
def forward(self, x):
    return self.b(self.c(x)) * getattr(self, "init" + "_weights")()
def init_weights(self):
    return 2 if isinstance(self.b, nn.BatchNorm2d) else 3
---
def forward(self, x):
    return self.b(self.c(x)) * methodcaller("init" + "_weights")(self)
def init_weights(self):
    return 2 if isinstance(self.b, nn.BatchNorm2d) else 3
---
def forward(self, x):
    return self.b(self.c(x)) * self.again()
def init_weights(self):
    return 2 if isinstance(self.b, nn.BatchNorm2d) else 3
again = init_weights
---
def train(self, mode=True):
    self.known = isinstance(self.b, nn.BatchNorm2d)
    return super().train(mode)
---
def eval(self):
    self.known = 1
    self.known += isinstance(self.b, nn.BatchNorm2d)
    return super().eval()
---
def forward(self, x):
    nn.init.zeros_(self.c.weight)
    return self.b(self.c(x))
---
def forward(self, x):
    init_layer(self.c)
    return self.b(self.c(x))
---
def forward(self, x):
    self.apply(self._init)
    return self.b(self.c(x))
def _init(self, module):
    pass
---
def probe(self, x):
    self.apply(self.change)
def change(self, module):
    module.weight = None
---
def forward(self, x):
    return self.b(self.c(x)) + self.load_it()
def load_it(self):
    return self.state_dict()["".join(["c", ".weight"])].sum()
---
def probe(self, x):
    return self.state_dict()["".join(["c", ".weight"])].sum()
---
def probe(self, x):
    self.add_module(NAME, nn.Identity())
---
def probe(self, x):
    self.c = self.other
---
def probe(self, x):
    del self.b
---
def probe(self, x):
    self.c, self.b = self.b, self.c
---
def probe(self, x):
    setattr(self, NAME, self.other)
---
def probe(self, x):
    self.d = self.c
---
def probe(self, x):
    return [self.c]
---
def probe(self, x):
    return self.c if x is None else self.b
---
def probe(self, x):
    yield self.c
---
def probe(self, x):
    return self.c.forward(x)
---
def probe(self, x):
    return self.c.eval()(x)
---
def probe(self, x):
    self.c.register_forward_hook(print)
---
def probe(self, x):
    return F.conv2d(x, self.c.weight)
---
def probe(self, x):
    return super().__getattr__(NAME)(x)
---
def probe(self, x):
    return copy.copy(self).c(x)
---
def probe(self, x):
    match self:
        case Base(c=found):
            return found(x)
---
def probe(self, x):
    return "c"
---
def probe(self, x):
    return self.rows[0], "a.c.weight"
---
def __getattr__(self, name):
    return super().__getattr__(name)
---
def fill(self):
    self.kept = [self.c]
---
def fill(self):
    self.kept = partial(self.run, 1)
    self.more = self.c.weight
def run(self, x):
    return x
---
def fill(self):
    self.again = self.c
---
def fill(self):
    self.tied = nn.Parameter(self.c.weight.data)
---
def fill(self):
    self.c.register_forward_hook(lambda *args: None)
---
def fill(self):
    self.c.forward = lambda x: x
---
def fill(self):
    self.seen = weakref.ref(self.c)
---
c = property(lambda self: self.other)
---
def c(self, x):
    return x
---
b = torch.relu
---
def fill(self):
    self.__dict__["b"] = torch.relu
---
def fill(self):
    object.__setattr__(self, "c", self.other)
---
def fill(self):
    layer = self.c
    self.later = lambda x: layer(x)
---
def fill(self):
    self.later = types.MethodType(lambda self, x: x, self.c)
"""
)


@pytest.mark.parametrize("code", STAYS)
def test_what_is_not_proved(code: str) -> None:
    assert not says(code)


CONTAINERS = _split(
    """
def forward(self, x):
    return self.seq(x) + self.rows[0](x) + sum(row(x) for row in self.table.values())
---
def forward(self, x):
    return checkpoint(self.seq, x, use_reentrant=False) + self.rows[-1](x) + self.table[NAME](x)
---
def forward(self, x):
    seq = self.seq
    for row in self.rows:
        x = row(x)
    for name, row in self.table.items():
        x = row(x)
    return seq(x)
"""
)
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
    if "children" not in code:
        assert all(says(text, f"{other}.0", f"{other}.1") for other in others)


def test_tensors_of_two_dtypes_have_nothing_in_common() -> None:
    code = """
    def fill(self):
        self.b.half()
    def forward(self, x):
        return self.b(self.c(x)).to(next(self.parameters()).dtype)
    """
    assert not says(code)
    assert says(code.replace("self.b.half()", "pass"))
    assert torch.float16 in {p.dtype for p in model(code).parameters()}


def test_layers_that_are_no_layers() -> None:
    net = model("pass")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is on its way out
        net.s = torch.jit.trace(nn.ReLU(), torch.ones(1))
    found = Succession(net)
    assert "TorchScript" in str(found.refuse("s"))
    assert "registered" in str(found.refuse("nowhere"))
    assert isinstance(model("pass").c, nn.Conv2d)
