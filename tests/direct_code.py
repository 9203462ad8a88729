"""Python as Dynamo writes it, run by Python and as a direct call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch._dynamo import utils

from bnfx.direct.shortcut import Shortcut, _arguments, _builder
from bnfx.direct.straight_code import read_code
from bnfx.direct.watched import Watched

PARAMETERS = "self, x, y, more, *rest"


class Slot:
    """A descriptor that has a say in assignments, too."""

    def __get__(self, owner: Any, kind: Any) -> Any:
        return owner.hidden

    def __set__(self, owner: Any, value: Any) -> None:
        owner.hidden = value


class Layer(nn.Module):
    number = 5
    slot = Slot()

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.hidden = nn.Parameter(torch.ones(2)), 1
        self.register_parameter("bias", None)
        self._is_profiler_enabled = True

    @property
    def computed(self) -> Any:
        return self.hidden


class Stubborn(Layer):
    def __getattribute__(self, name: str) -> Any:
        return 77 if name == "asked" else super().__getattribute__(name)


class Flags:
    def __init__(self) -> None:
        self.depth = 3


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.stubborn = Layer(), Stubborn()
        vars(self.layer)["slot"] = vars(self.stubborn)["asked"] = "hidden by the class"
        self.table, self.pair, self.items = {"a": 1.5, 3: "three"}, (torch.ones(1), [7]), [1, 2]
        self.ordered, self.scale, self.flags = OrderedDict(a=1), 2.5, Flags()


class Written:
    """A function and what it is read from.

    Attributes:
        graph: with what the graph was called.
    """

    def __init__(self, body: str, **names: Any) -> None:
        self.model, self.graph = Model(), list[Any]()
        self.watched = Watched()
        self.names: dict[str, Any] = {
            "__compiled_fn_1": self._graph,
            "__compiled_fn_2": self._graph,
            "enter": utils.record_pregraph_bytecode_enter,
            "leave": utils.record_pregraph_bytecode_exit,
            "call_size": utils.call_size,
            "call_stride": utils.call_stride,
            "utils": utils,
            "as_tensor": torch._as_tensor_fullprec,
            "profiler": torch.autograd.profiler,
            "torch": torch,
            "print": print,
            "ANY": object(),
            **names,
        }
        lines = "\n".join(f"        {line}" for line in body.splitlines())
        outer = f"def outer(around):\n    def inner({PARAMETERS}):\n{lines}\n    return inner"
        made: dict[str, Any] = {}
        exec(outer, self.names, made)
        self.function: FunctionType = made["outer"](["around"])
        self.args = (torch.zeros(2, 3), torch.ones(4), {"k": [torch.ones(1)]}, "r", torch.ones(5))
        cells = [cell.cell_contents for cell in self.function.__closure__ or ()]
        free = zip(self.function.__code__.co_freevars, cells, strict=True)
        self.fixed = {"self": self.model, "unused": self.model, **dict(free)}

    def _graph(self, *args: Any) -> Any:
        self.graph.append(args)
        return [f"out {at} of {len(args)}" for at in range(3)]

    def run(self) -> tuple[Any, Any]:
        """What Python makes of it: the answer, and with what it called the graph."""
        self.graph.clear()
        answer = self.function(self.model, *self.args)
        return answer, list(self.graph)

    def shortcut(self) -> Callable[[], tuple[Any, Any]]:
        """The same as a direct call."""
        read = read_code(self.function.__code__, self.names, self.fixed, self.model, self.watched)
        arguments, filled = _arguments(read)
        made = Shortcut(
            lambda: True,
            lambda _: True,
            list,
            read.call,
            arguments,
            filled,
            _builder(read.returned),
        )
        x, y, more, *rest = self.args
        scope = {**self.fixed, "x": x, "y": y, "more": more, "rest": tuple(rest)}

        def run() -> tuple[Any, Any]:
            self.graph.clear()
            answer = made.answer(scope)
            return answer, list(self.graph)

        return run


def same(one: Any, other: Any) -> bool:
    """Whether they are alike; what is no list, tuple or dict is the very same, or equal text."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return [*one] == [*other] and same([*one.values()], [*other.values()])
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return one is other or (one.dim() == 0 and bool(one == other))
    return bool(one is other or one == other)
