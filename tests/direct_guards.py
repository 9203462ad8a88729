"""What stands for Dynamo's guards in a direct call, beside these guards themselves."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._dynamo import eval_frame

from bnfx.direct.frame import Frame
from bnfx.direct.guard_tree import without_model
from bnfx.direct.watched import Watched


@dataclass
class Guards:
    """Those of one compiled graph of a model.

    Args:
        dynamo: whether Dynamo's own hold; takes the local variables of a call.
        holds: whether nothing was assigned in the model.
        fits: whether the guards that are left hold.
    """

    frame: Frame
    dynamo: Callable[[dict[str, Any]], bool]
    holds: Callable[[], bool]
    fits: Callable[[dict[str, Any]], bool]
    kept: Any  # as Dynamo's graph must not be dropped

    @staticmethod
    def of(model: nn.Module, *args: Any) -> Guards:
        torch._dynamo.reset()
        compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
        with torch.no_grad():
            compiled(*args)
            frame = Frame.of(model, compiled.forward.__wrapped__)
            (entry,) = eval_frame._debug_get_cache_entry_list(frame.code)
            root, watched = entry.guard_manager.root, Watched()
            scope = frame.scope(args, {})
            assert scope is not None
            fits = without_model(root, model, scope, watched)
            frame.watch(watched)
            watched.add(model)
            return Guards(frame, root.check, watched.holds(), fits, compiled)

    def say(self, *args: Any) -> tuple[bool, bool, bool]:
        """What Dynamo's guards say of a call, whether all is as it was, what the others say."""
        scope = self.frame.scope(args, {})
        assert scope is not None
        with torch.no_grad():
            return self.dynamo(scope), self.holds(), self.fits(scope)


Change = Callable[[Any], object]
Case = tuple[Callable[[], Any], Callable[[Any, Any], Any], tuple[Change, ...]]


class Plain:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def scaled(a: Any, k: int = 2, *, j: int = 3) -> Any:
    return a * k * j


def doubled(a: Any) -> Any:
    return a * 2


def a_function() -> Any:
    function: Any = types.FunctionType(scaled.__code__, globals(), "scaled", (2,))
    function.__kwdefaults__ = {"j": 3}
    return function


def times(value: Any) -> Callable[[Any], Any]:
    def multiply(a: Any) -> Any:
        return a * (value[0] if isinstance(value, list) else value)

    return multiply


def cell(m: Any) -> Any:
    return m.v.__closure__[0]


def folded(values: Any, x: Any) -> Any:
    for value in values:
        x = x * 3 + value
    return x


def through(layers: Any, x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


def put(**values: Any) -> Change:
    def change(m: Any) -> Any:
        for name, value in values.items():
            setattr(m, name, value)
        return m

    return change


def ones(*size: int, dtype: Any = torch.float32) -> torch.Tensor:
    return torch.ones(size or (2,), dtype=dtype)


def last(m: Any) -> None:
    m.v["a"] = m.v.pop("a")


class Holding(nn.Module):
    """What reads a value among others of its own."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.v, self.own, self.table = value, ones(), {"a": ones()}


def seen_by(case: Case) -> set[tuple[bool, bool]]:
    """Of each change: whether what watches the model still holds, and the guards that are left.

    No call may be direct whose graph Dynamo would not run.
    """
    value, read, changes = case
    kind, x, found = type("Kind", (Holding,), {"forward": read}), ones(), set[tuple[bool, bool]]()
    for change in changes:
        model = kind(value()).eval()
        guards = Guards.of(model, x)
        assert guards.say(x) == (True, True, True)
        change(model)
        dynamo, holds, fits = guards.say(x)
        assert dynamo or not (holds and fits)
        found.add((holds, fits))
    return found
