"""A fold gives the same class where all of its code is plain, and a graph elsewhere.

Each source is the rest of a class that has ``block``, a convolution and a BatchNorm, and others.
"""

from __future__ import annotations

import itertools
import textwrap
import warnings
from typing import Any

import pytest
import torch
from support import python_module, randomise, relative
from torch import fx, nn

import bnfx
from bnfx.folding.modules.plain.plain_model import PlainModel

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()
_NUMBER = itertools.count()
_HEAD = """
import functools, io, torch
from torch import fx, nn
from torch.nn import functional as F
KEPT, ACTS = [], []
def halved(x): return x / 2
def first(module, x): return module[0](x)
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    def forward(self, x):
        return self.bn(self.conv(x))
class Named(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    def forward(self, x):
        return self._modules["1"](self._modules["0"](x))
class Stages(nn.ModuleDict):
    def features(self, x):
        return [layer(x) for stage in self.values() for layer in stage]
class Keeping(nn.Conv2d):
    def forward(self, x):
        y = super().forward(x)
        ACTS.append(y)
        return y
class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.scale, self.down = Block(), 2.0, None
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.rows = nn.ModuleList([Block(), Block()])
        self.head = nn.Conv2d(3, 2, 1)
        self.fill()
    def fill(self):
        pass
    def forward(self, x):
        return self.block(self.stem(x))
"""


def network(code: str) -> Any:
    body = textwrap.indent(textwrap.dedent(code).strip(), "    ")
    name = f"made_by_test_plain_code_{next(_NUMBER)}"
    module = python_module(name, f"{_HEAD}\nclass Net(Base):\n{body}\n")
    torch.manual_seed(0)
    return randomise(module.Net()).double().eval()


def folded(model: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bnfx.FoldWarning)
        return bnfx.fold(model, X)


PLAIN = [
    "pass",
    "def twice(self, x):\n    return self.block(self.block(x)) * self.scale",
    "def forward(self, x):\n    for row in self.rows:\n        x = row(x)\n    return x",
    "def forward(self, x):\n    y = self.stem(x)\n    if self.down is not None:\n"
    "        y = self.down(y)\n    return F.relu(y)",
    "def forward(self, x):\n    return super().forward(x) + torch.flip(x, (1,))",
    "def forward(self, x):\n    return halved(self.block(x)).flatten(1)",
    "def fill(self):\n    self.scale = 3.0\ndef again(self, x):\n    return self.forward(x)",
    "@staticmethod\ndef size(x):\n    return x.shape[1]\ndef probe(self, x):\n"
    "    return self.size(x)",
    "def probe(self, x):\n    return [r(x) for r in reversed(self.rows)]",
    "def forward(self, x):\n    if x.dim() != 4:\n        raise ValueError(f'{x.dim()} axes')\n"
    "    return self.head(self.block(x))",
]
STRANGE = [
    "return self.block[0](x)",
    "return [layer(x) for layer in self.stem]",
    "return [layer(x) for row in [self.stem] for layer in row]",
    "return self._modules['stem'][0](x)",
    "return [s(x) for s in self._modules.values()]",
    "return self.children().__next__()[0](x)",
    "return getattr(self, 'st' + 'em')[0](x)",
    "return self.eval().stem[0](x)",
    "return self.stem.eval()[0](x)",
    "return fx.symbolic_trace(self.block.eval())",
    "return fx.symbolic_trace(self)",
    "return self.block.conv(x)",
    "return self.block",
    "return self.block.bn.num_features",
    "return str(self.block)",
    "return [p.sum() for p in self.parameters()]",
    "return self.block(x).grad_fn",
    "return self(x).requires_grad",
    "return KEPT.append(self.block)",
    "return functools.partial(first, self.stem)(x)",
    "return first(self.stem, x)",
    "return (lambda net: net.stem[0](x))(self)",
    "return isinstance(self.block, nn.Module)",
    "return self.__class__.__name__",
    "return type(self)",
    "return self.register_forward_hook(first)",
    "return nn.modules.module.register_module_forward_hook(first)",
    "self.now = self.block\n    return self.now.conv(x)",
    "self.block = self.stem\n    return x",
    "nn.Conv2d.forward = halved\n    return x",
    "with torch.autograd.profiler.profile() as told:\n        self(x)\n    return told",
    "try:\n        return self(x)\n    except ValueError:\n        return x",
    "def inside():\n        return self.stem[0](x)\n    return inside()",
    "print(self, file=io.StringIO())\n    return x",
    "import torch.fx as tracing\n    return tracing.symbolic_trace(self.stem)",
    "yield self.stem",
    "global ACTS\n    ACTS = self.stem\n    return x",
    "del self.stem[1]\n    return x",
    "return (net := self)",
    "match self.block:\n        case Block(conv=found):\n            return found(x)",
]
CLASSES = [
    "@property\ndef net(self):\n    return self",
    "@functools.lru_cache\ndef probe(self):\n    return self.stem",
    "def __iter__(self):\n    return iter(self.stem)",
    "def __getattr__(self, name):\n    return super().__getattr__(name)",
    "probe = functools.partialmethod(first)",
    "def probe(self, x, net=KEPT):\n    return net\nkept = halved",
    "def fill(self):\n    self.block = Named()",
    "def fill(self):\n    self.stem = nn.Sequential(Keeping(3, 3, 1), nn.BatchNorm2d(3))",
    "def fill(self):\n    self.first = functools.partial(first, self.stem)",
    "def fill(self):\n    self.block.register_forward_hook(lambda m, args, out: out)",
    "def fill(self):\n    self.stages = Stages({'a': self.stem})\n    self.stem = nn.Identity()"
    "\ndef forward(self, x):\n    return self.stages['a'](x)",
]


@pytest.mark.parametrize("code", PLAIN)
def test_plain_code_keeps_its_class(code: str) -> None:
    model = network(code)
    same = folded(model)
    assert type(same) is type(model)
    with torch.no_grad():
        assert relative(same(X), model(X)) < 1e-12


@pytest.mark.parametrize("code", [f"def probe(self, x):\n    {each}" for each in STRANGE] + CLASSES)
def test_other_code_is_not_read(code: str) -> None:
    """Not all folds are carried out in the class, so that a graph comes back."""
    model = network(code)
    plain = PlainModel(model)
    own = "Keeping" in code  # a convolution with a forward of its own
    assert plain.strange is not None or plain.exposed or own
    if own:  # no graph can be made of what keeps its results in a list
        way_out = 'keep="module", assume="example" needs no'
        with pytest.raises(bnfx.CaptureError, match=way_out) as raised:
            folded(model)
        assert raised.value.__cause__ is not raised.value
    else:
        assert isinstance(folded(model), fx.GraphModule)


def test_models_of_torchvision_are_plain() -> None:
    from torchvision import models

    for name in ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0"):
        assert PlainModel(models.get_model(name, weights=None).eval()).strange is None, name
