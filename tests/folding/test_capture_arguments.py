"""A graph takes what it was folded for, says so of anything else, and is never silently wrong."""

from __future__ import annotations

import collections
import enum
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from support import TORCH, randomise, relative
from torch import nn
from torch.nn.utils import prune, weight_norm
from torch.utils import _pytree as pytree

import bnfx
from bnfx.folding.capturing.asking.questions import Questions

X, Y = (torch.randn(2, 3, 6, 6, dtype=torch.float64) for _ in range(2))
FEW, MANY = torch.tensor([0, 1]), torch.tensor([90, 98])
TABLES = torch.randn(10, dtype=torch.float64), torch.randn(99, dtype=torch.float64)
PARAMETER = nn.Parameter(X.clone(), requires_grad=False)
WIDE = X.to(memory_format=torch.channels_last)
DEFAULT = torch.tensor(3.0, dtype=torch.float64)


class Mode(enum.Enum):
    A = 1
    B = 2


Named = collections.namedtuple("Named", "image mask")


class Net(nn.Module):
    def __init__(self, way: Callable[..., Any]) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.way = way

    def f(self, x: Any) -> Any:
        return self.bn(self.conv(x))


def _net(way: Callable[..., Any]) -> nn.Module:
    """A model whose ``forward`` has the signature of ``way``."""

    class Model(Net):
        forward = way  # type: ignore[assignment]

    return randomise(Model(way)).eval().double()


@dataclass(frozen=True)
class Case:
    """Example arguments, others, and what the graph says of them; ``None``: it is right."""

    way: Callable[..., Any]
    example: tuple[Any, ...]
    other: tuple[Any, ...]
    says: str | None
    example_kwargs: dict[str, Any]
    other_kwargs: dict[str, Any]


def case(
    way: Callable[..., Any],
    example: tuple[Any, ...],
    other: tuple[Any, ...],
    says: str | None,
    example_kwargs: dict[str, Any] | None = None,
    other_kwargs: dict[str, Any] | None = None,
) -> Case:
    return Case(way, example, other, says, example_kwargs or {}, other_kwargs or {})


def _difference(self: Any, a: Any, b: Any) -> Any:
    return self.f(a) - self.f(b).mean()


def _if_same(self: Any, a: Any, b: Any) -> Any:
    return self.f(a) if a is b else self.f(a) - b.mean()


def _by_key(self: Any, batch: Any) -> Any:
    return self.f(batch["x"]) * (2 if "mask" in batch else 1)


def _in_order(self: Any, batch: Any) -> Any:
    return self.f(sum((at + 1) * value for at, value in enumerate(batch.values())))


def _by_name(self: Any, x: Any, **more: Any) -> Any:
    out = self.f(x)
    for value in more.values():
        out = out * value
    return out


def _sized(self: Any, x: Any, seen: Any = (), named: Any = {}) -> Any:  # noqa: B006
    return self.f(x) * (1 + len(seen) + 2 * len(named))


def _scaled(self: Any, x: Any, k: Any) -> Any:
    return self.f(x) * (k.real if isinstance(k, complex) else 1)


def _mode(self: Any, x: Any, mode: Mode = Mode.A) -> Any:
    return self.f(x) * mode.value


def _formatted(
    self: Any,
    x: Any,
    device: Any = torch.device("cpu"),  # noqa: B008
    layout: Any = torch.contiguous_format,
) -> Any:
    out = self.f(x).to(device, memory_format=layout)
    return out * (2 if out.is_contiguous() else 1)


def _by_dtype(self: Any, x: Any) -> Any:
    return self.f(x.double()) * (2 if x.dtype == torch.float32 else 1)


def _by_keyword(self: Any, x: Any) -> Any:
    return self.f(x) if torch.is_floating_point(input=x) else self.f(x * 2.0)


def _looked_up(self: Any, x: Any, few: Any, many: Any) -> Any:
    return self.f(x) * TABLES[0][few].sum() * TABLES[1][many].sum()


def _by_kind(self: Any, x: Any) -> Any:
    return self.f(x) if isinstance(x, nn.Parameter) else self.f(x * 2)


def _by_floats(self: Any, x: Any) -> Any:
    return self.f(x.double()) * (2 if torch.is_floating_point(x) else 1)


def _cast(self: Any, x: Any) -> Any:
    return self.f(x.to(self.conv.weight.dtype))


def _contiguous(self: Any, x: Any) -> Any:
    return self.f(x if x.is_contiguous() else x * 2)


def _by_stride(self: Any, x: Any) -> Any:
    return self.f(x) * x.stride(1)


def _named(self: Any, pair: Any) -> Any:
    return self.f(pair.image) if pair.mask is None else self.f(pair.image * pair.mask)


def _only_named(self: Any, *, x: Any, twice: bool = False) -> Any:
    return self.f(x) * (2 if twice else 1)


CASES = {
    "same tensor twice, then others": case(_difference, (X, X), (X, Y), None),
    "others, then the same tensor twice": case(_difference, (X, Y), (X, X), None),
    "is, then is not": case(_if_same, (X, X), (X, Y), "inputs where a is b"),
    "is not, then is": case(_if_same, (X, Y), (Y, Y), "inputs where a is not b"),
    "is not, with other numbers": case(_if_same, (X, Y), (Y, X), None),
    "one key more": case(_by_key, ({"x": X},), ({"x": Y, "mask": X},), r"batch .* keys \['x'\]"),
    "one key less": case(_by_key, ({"x": X, "mask": X},), ({"x": Y},), "keys"),
    "other order": case(_in_order, ({"a": X, "b": Y},), ({"b": Y, "a": X},), "in this order"),
    "ordered dict": case(
        _in_order,
        (collections.OrderedDict(a=X, b=Y),),
        (collections.OrderedDict(a=Y, b=X),),
        None,
    ),
    "no keyword, then one": case(_by_name, (X,), (X,), r"more .* keys \[\]", {}, {"by": 2.0}),
    "another keyword": case(_by_name, (X,), (X,), "more", {"a": 2.0}, {"b": 2.0}),
    "another number": case(_by_name, (X,), (X,), r"more\['a'\]=2.0", {"a": 2.0}, {"a": 3.0}),
    "empty tuple, then one": case(_sized, (X,), (X, (1,)), "seen of length 0"),
    "empty dict, then one": case(_sized, (X,), (X, (), {"a": 1}), r"named .* keys \[\]"),
    "empty tuple, then list": case(_sized, (X,), (X, []), "seen of the class tuple"),
    "complex": case(_scaled, (X, 1 + 0j), (X, 2 + 0j), "k="),
    "enum by default": case(_mode, (X,), (Y,), None),
    "another enum": case(_mode, (X,), (X, Mode.B), "mode=<Mode.A: 1>"),
    "device and format by default": case(_formatted, (X,), (Y,), None),
    "another format": case(
        _formatted, (X,), (X, torch.device("cpu"), torch.channels_last), "layout="
    ),
    "another dtype": case(_by_dtype, (X,), (X.float(),), "x of torch.float64"),
    "integers": case(_by_floats, (X,), (X.int(),), "x of torch.float64"),
    "integers, not asked for": case(_cast, (X,), (X.int(),), "x of a floating-point dtype"),
    "another dtype, not asked for": case(_cast, (X,), (X.float(),), None),
    "another layout": case(_contiguous, (X,), (WIDE,), "x in torch.contiguous_format"),
    "channels last": case(_contiguous, (WIDE,), (X,), "x in torch.channels_last"),
    "transposed": case(_contiguous, (X.transpose(1, 3)[:, :3],), (X,), "x of strides"),
    "another layout, not asked for": case(_cast, (X,), (WIDE,), None),
    "strides": case(_by_stride, (X,), (WIDE,), "x in torch.contiguous_format"),
    "strides of another size": case(_by_stride, (X,), (torch.cat([X, X], 3),), None),
    "named tuple": case(_named, (Named(X, None),), (Named(Y, None),), None),
    "named tuple, mask": case(_named, (Named(X, None),), (Named(Y, X),), r"pair\[1\]=None"),
    "by name only": case(_only_named, (), (), None, {"x": X}, {"x": Y}),
    "by name only, another": case(
        _only_named, (), (), "twice=False", {"x": X}, {"x": X, "twice": True}
    ),
    "asked by keyword": case(_by_keyword, (X,), (X.int(),), "x of torch.float64"),
    "indices": case(_looked_up, (X, FEW, MANY), (X, FEW, FEW + 5), None),
    "a parameter": case(_by_kind, (X,), (PARAMETER,), "x of the class Tensor"),
    "no parameter": case(_by_kind, (PARAMETER,), (X,), "x of the class Parameter"),
    "a parameter, not asked for": case(_cast, (X,), (PARAMETER,), None),
    "numpy's number": case(_scaled, (X, np.float64(2)), (X, np.float64(3)), "k=np.float64"),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", CASES)
def test_other_arguments_are_right_or_named(name: str) -> None:
    it = CASES[name]
    model = _net(it.way)
    if "enum" in name and TORCH < (2, 12):
        with pytest.raises(bnfx.CaptureError, match=r"torch\.export cannot capture"):
            bnfx.fold(model, *it.example, keep="graph", **it.example_kwargs)
        return
    folded = bnfx.fold(model, *it.example, keep="graph", verify=False, **it.example_kwargs)
    assert type not in [node.target for node in folded.graph.nodes]  # Python 3.12 cannot load that
    file = io.BytesIO()
    torch.save(folded, file)
    file.seek(0)
    with torch.no_grad():
        for same in (folded, torch.load(file, weights_only=False)):
            expected = model(*it.example, **it.example_kwargs)
            assert relative(same(*it.example, **it.example_kwargs), expected) < 1e-12
            if it.says is not None:
                with pytest.raises(AssertionError, match=f"folded for .*{it.says}"):
                    same(*it.other, **it.other_kwargs)
                continue
            expected = model(*it.other, **it.other_kwargs)
            assert relative(same(*it.other, **it.other_kwargs), expected) < 1e-12


def _adds_to(self: Any, batch: Any) -> Any:
    batch["out"] = self.f(batch["x"])
    return batch


def _appends(self: Any, xs: Any) -> Any:
    xs.append(self.f(xs[0]))
    return xs


def _appends_inside(self: Any, batch: Any) -> Any:
    batch["all"].append(1)
    return self.f(batch["x"])


def _counts(self: Any, x: Any, seen: Any = []) -> Any:  # noqa: B006
    seen.append(1)
    return self.f(x) * len(seen)


def _by_default(self: Any, x: Any, scale: Any = DEFAULT) -> Any:
    return self.f(x) * scale


def _applied(self: Any, x: Any, op: Any) -> Any:
    return op(self.f(x))


def _by_place(self: Any, x: Any, /) -> Any:
    return self.f(x)


REFUSED = {
    "writes to a dict": (_adds_to, ({"x": X},), "writes to its argument batch, "),
    "writes to a list": (_appends, ([X],), "writes to its argument xs, "),
    "writes inside": (_appends_inside, ({"x": X, "all": []},), r"its argument batch\['all'\], "),
    "writes to a default": (_counts, (X,), "writes to its argument seen, "),
    "tensor by default": (_by_default, (X,), "has a Tensor as default of scale.*pass scale"),
    "by position only": (_by_place, (X,), "takes x by position only"),
    "array": (_cast, (np.ones((2, 3, 6, 6)),), "x is of type ndarray"),
    "function": (_applied, (X, abs), "op is of type builtin_function_or_method"),
    "set inside": (_sized, (X, (), {"a": {1}}), r"named\['a'\] is of type set"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_graph_takes_is_named(name: str) -> None:
    way, args, says = REFUSED[name]
    if name == "array":

        def way(self: Any, x: Any) -> Any:
            return self.f(torch.as_tensor(x))

    model = _net(way)
    with pytest.raises(bnfx.CaptureError, match=says):
        bnfx.fold(model, *args, keep="graph")


def test_a_default_that_is_passed_is_an_argument() -> None:
    model = _net(_by_default)
    folded = bnfx.fold(model, X, DEFAULT, keep="graph")
    with torch.no_grad():
        for scale in (DEFAULT, -DEFAULT):
            assert relative(folded(Y, scale), model(Y, scale)) < 1e-12


def test_inputs_and_weights_that_were_computed_with_gradients_can_be_copied() -> None:
    """Features of a backbone, and the weights that pruning and weight_norm compute."""
    features = nn.Conv2d(3, 3, 1).double()(X)
    assert not features.is_leaf
    plain, pruned, normed = (_net(_by_name) for _ in range(3))
    prune.l1_unstructured(pruned.conv, "weight", 0.5)
    with pytest.warns(FutureWarning, match="weight_norm"):
        weight_norm(normed.conv)
    for model in (plain, pruned, normed):
        assert isinstance(model, Net)
        assert model is plain or not model.conv.weight.is_leaf
        folded = bnfx.fold(model, features, keep="graph")
        assert not any(hasattr(module, "running_var") for module in folded.modules())
        with torch.no_grad():
            ours, theirs = folded(Y), model(Y)
        assert relative(ours, theirs) < 1e-12
        assert pytree.tree_leaves(bnfx.explain(model, features).verdicts)


def test_nothing_is_left_in_torch_by_threads_that_fold_at_once() -> None:
    look = type(nn.Parameter).__instancecheck__
    first, second = Questions(), Questions()
    first.__enter__()

    def other() -> None:
        with second:
            assert not isinstance(X, nn.Parameter)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert "Parameter" in second.names
    assert "Parameter" not in first.names
    first.__exit__(None, None, None)
    assert type(nn.Parameter).__instancecheck__ is look
