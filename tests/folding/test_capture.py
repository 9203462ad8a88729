"""The graph is what the model does on the example, whatever it asks of its arguments."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import TORCH, randomise, relative
from torch import nn
from torch.nn.utils import prune

import bnfx

X = torch.randn(2, 3, 7, 7, dtype=torch.float64)


class Two(nn.Module):
    """A convolution, and one BatchNorm or another."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.bn, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)


class IsNone(Two):
    def forward(self, x: Any, domain: Any = None) -> Any:
        return self.bn(self.c(x)) if domain is None else self.other(self.c(x))


class Optional(Two):
    def forward(self, x: Any, scale: Any = None) -> Any:
        x = self.bn(self.c(x))
        if scale is not None:
            x = x * scale
        return self.other(x.relu()).tanh()


class IsTensor(Two):
    def forward(self, x: Any) -> Any:
        return self.bn(self.c(x)) if isinstance(x, torch.Tensor) else self.other(self.c(x))


class TypeIs(Two):
    def forward(self, x: Any) -> Any:
        return (self.bn if type(x) is torch.Tensor else self.other)(self.c(x))


class ByIndex(Two):
    def forward(self, x: Any) -> Any:
        return (self.other, self.bn)[isinstance(x, torch.Tensor)](self.c(x))


class ByTable(Two):
    def forward(self, x: Any) -> Any:
        table = {torch.Tensor: self.bn}
        return table.get(x.__class__, self.other)(self.c(x))


class IsTensorFunction(Two):
    def forward(self, x: Any) -> Any:
        return (self.bn if torch.is_tensor(x) else self.other)(self.c(x))


class Renamed(Two):
    def forward(self, x: Any) -> Any:
        check = isinstance
        layer = self.bn if check(x, torch.Tensor) else self.other
        return layer(self.c(x))


class Helper(Two):
    @staticmethod
    def takes(value: Any) -> bool:
        return isinstance(value, torch.Tensor)

    def forward(self, x: Any) -> Any:
        layer = self.bn if self.takes(x) else self.other
        return layer(self.c(x))


class Flag(Two):
    def forward(self, x: Any, aux: bool = False) -> Any:
        x = self.c(x)
        return self.bn(x) if aux is False else self.other(x)


class Or(Two):
    def forward(self, x: Any, norm: Any = None) -> Any:
        norm = norm or "bn"
        return getattr(self, norm)(self.c(x))


class Traced(Two):
    def forward(self, x: Any) -> Any:
        traced = torch.fx._symbolic_trace.is_fx_tracing()
        return (self.other if traced else self.bn)(self.c(x))


class OfParameter(Two):
    def forward(self, x: Any) -> Any:
        layer = self.bn if isinstance(self.c.weight, nn.Parameter) else self.other
        return layer(self.c(x))


KINDS = [IsNone, Optional, IsTensor, TypeIs, ByIndex, ByTable, IsTensorFunction, Renamed, Helper]
KINDS += [Flag, Or, Traced, OfParameter]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_decisions_go_where_the_call_goes(kind: type[nn.Module]) -> None:
    model = randomise(kind()).eval().double()
    with torch.no_grad():
        if kind is ByIndex and TORCH < (2, 12):  # Dynamo knows no index that is a bool
            with pytest.raises(bnfx.CaptureError, match="in one graph"):
                bnfx.fold(model, X, keep="graph")
            return
        folded = bnfx.fold(model, X, keep="graph", verify=False)
        assert relative(folded(X), model(X)) < 1e-12
        try:
            blind = bnfx.fold(model, keep="graph")
        except bnfx.CaptureError:
            return  # or it is right
        assert relative(blind(X), model(X)) < 1e-12


def test_other_arguments_than_it_was_folded_for_are_named() -> None:
    with torch.no_grad():
        plain = bnfx.fold(randomise(Optional()).eval().double(), X, keep="graph")
        with pytest.raises(AssertionError, match="folded for scale=None"):
            plain(X, torch.ones(1).double())
        scaled = bnfx.fold(
            randomise(Optional()).eval().double(), X, scale=X[:1, :1, :1, :1], keep="graph"
        )
        with pytest.raises(AssertionError, match="folded for a tensor as scale"):
            scaled(X)


class Nested(Two):
    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.way = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.way(self, *args, **kwargs)


def conv(m: Any, x: Any) -> Any:
    return m.bn(m.c(x).relu().flip(2))


NESTED: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {
    "dict": (lambda m, b: conv(m, b["image"]), ({"image": X},), {}),
    "tuple": (lambda m, p: conv(m, p[0]) + p[1], ((X, torch.ones(1).double()),), {}),
    "list": (lambda m, xs: [conv(m, x) for x in xs], ([X, X[:1]],), {}),
    "deep": (lambda m, b: conv(m, b["a"][0]["b"]), ({"a": [{"b": X}]},), {}),
    "none": (lambda m, x, y: conv(m, x), (X, None), {}),
    "keyword": (lambda m, x, scale: conv(m, x) * scale, (X,), {"scale": X[:1, :1, :1, :1]}),
    "star": (lambda m, *xs: conv(m, xs[0]) + xs[1].mean(), (X, X), {}),
    "number": (lambda m, x, n: conv(m, x) * n, (X, 3), {}),
    "text": (lambda m, x, how: conv(m, x) if how == "a" else x, (X, "a"), {}),
    "to a dict": (lambda m, x: {"y": conv(m, x), "n": None, "s": (x, 2)}, (X,), {}),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", NESTED)
def test_inputs_and_outputs_of_every_kind(name: str) -> None:
    way, args, kwargs = NESTED[name]
    model = randomise(Nested(way)).eval().double()
    folded = bnfx.fold(model, *args, keep="graph", verify=False, **kwargs)
    file = io.BytesIO()
    torch.save(folded, file)
    file.seek(0)
    with torch.no_grad():
        for same in (folded, torch.load(file, weights_only=False)):
            ours = torch.utils._pytree.tree_flatten(same(*args, **kwargs))
            theirs = torch.utils._pytree.tree_flatten(model(*args, **kwargs))
            assert ours[1] == theirs[1]
            for a, b in zip(ours[0], theirs[0], strict=True):
                assert relative(a, b) < 1e-12 if isinstance(b, torch.Tensor) else a == b
    assert "BatchNorm" in str(bnfx.explain(model, *args, **kwargs))


def test_what_was_decided_about_sizes_is_asserted() -> None:
    class Sized(Two):
        def forward(self, x: Any) -> Any:
            return (self.bn if x.shape[2] * x.shape[3] > 40 else self.other)(self.c(x))

    model = randomise(Sized()).eval().double()
    folded = bnfx.fold(model, X, keep="graph")
    with torch.no_grad():
        assert relative(folded(X[:1, :, :6]), model(X[:1, :, :6])) < 1e-12
        with pytest.raises(AssertionError, match=r"folded for inputs with .*x\.shape\[2\]"):
            folded(X[:, :, :5, :5])


def test_a_wrong_fold_is_noticed_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = (randomise(IsTensor()).eval().double() for _ in range(2))
    home = importlib.import_module("bnfx.folding.fold")
    monkeypatch.setattr(home, "fold_kept", lambda *_: other)
    with pytest.raises(bnfx.VerificationError):
        bnfx.fold(model, X, keep="graph")
    bnfx.fold(model, X, keep="graph", verify=False)


def test_the_model_itself_is_blamed_only_where_it_fails() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.bn = nn.Linear(3, 6), nn.BatchNorm1d(6)

        def forward(self, x: Any, mask: Any) -> Any:
            return self.bn(self.fc(x[mask]))

    model, x = randomise(Masked()).eval(), torch.randn(2, 7, 3)
    mask = torch.rand(2, 7) > 0.4
    same = bnfx.fold(model, x, mask)
    assert type(same) is Masked
    with torch.no_grad():
        assert relative(same(x, mask), model(x, mask)) < 1e-5
    with pytest.raises(bnfx.CaptureError, match="do not fit the model, which fails on them"):
        bnfx.fold(model, x, mask[:1])


def test_torchscript_is_told_in_one_sentence() -> None:
    with pytest.warns(Warning, match="deprecated"):
        scripted = torch.jit.trace(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), X.float()
        )
    for call in (bnfx.fold, bnfx.explain):
        with pytest.raises(bnfx.CaptureError, match=r"TorchScript module.*fold the Python model"):
            call(scripted, X.float())


@pytest.mark.parametrize("keep", ["auto", "module"])
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_around_a_scripted_child_the_class_is_folded(keep: str) -> None:
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            child = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
            self.child = torch.jit.trace(child, X.float(), check_trace=False)
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Any) -> Any:
            return self.bn(self.conv(self.child(x)))

    model = randomise(Parent()).eval().double()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        same = bnfx.fold(model, X, keep=keep)
    told = [str(w.message) for w in said if w.category is bnfx.FoldWarning]
    assert len(told) == 1
    assert "child.1 is TorchScript, whose layers cannot be changed" in told[0]
    assert type(same.bn) is nn.Identity
    with torch.no_grad():
        assert relative(same(X), model(X)) < 1e-12
    with pytest.raises(bnfx.CaptureError, match=r"^child is TorchScript"):
        bnfx.fold(model, X, keep="graph")


@pytest.mark.slow
def test_pruned_layers_fold_as_explain_says() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).eval()
    with torch.no_grad():
        prune.l1_unstructured(model[0], "weight", 0.5)
        assert [v.outcome.value for v in bnfx.explain(model, X.float()).verdicts] == ["folded"]
        with pytest.warns(bnfx.FoldWarning, match="Sequential is not proved to hold every fold"):
            graph = bnfx.fold(model, X.float())
        with pytest.warns(bnfx.FoldWarning, match="1 BatchNorm left"):
            bnfx.fold(model, X.float(), keep="module")
        assert isinstance(graph, torch.fx.GraphModule)
        targets = [str(node.target) for node in graph.graph.nodes]
        assert not any("batch_norm" in target for target in targets)
        assert relative(graph(X.float()), model(X.float())) < 1e-5


def test_example_inputs_keep_their_marks() -> None:
    """Torch notes on them which sizes it left open, and would open those for the user, too."""
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).eval()
    plain, marked = torch.randn(2, 3, 6, 7), torch.randn(2, 3, 6, 7)
    torch._dynamo.mark_dynamic(marked, 0)
    for x in (plain, marked):
        before = {name: str(value) for name, value in vars(x).items()}
        bnfx.fold(model, x, keep="graph")
        bnfx.explain(model, x)
        assert {name: str(value) for name, value in vars(x).items()} == before


def test_layers_behind_a_getattr_keep_their_names() -> None:
    class Getting(Two):
        def __getattr__(self, name: str) -> Any:
            return super().__getattr__(name)

        def forward(self, x: Any) -> Any:
            return self.bn(self.c(x))

    model = randomise(Getting()).eval().double()
    for verdict in bnfx.explain(model, X).verdicts:
        assert (verdict.site.name, verdict.target) == ("bn", "c")
    with pytest.warns(bnfx.FoldWarning, match="GraphModule.*bn: "):
        folded = bnfx.fold(model, X)
    assert set(folded.state_dict()) == {"c.weight", "c.bias"}
