"""What a model's code asks of tensors besides their values and sizes, and whether it matters.

A capture answers once, for the example: that a tensor is contiguous, that its dtype is
``torch.float32``, that two arguments are one tensor. A graph that rests on an answer asserts it.
"""

from __future__ import annotations

import builtins
import inspect
import itertools
import operator
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from bnfx.folding.capturing.argument_checks import say

_DTYPE = ("dtype", "is_floating_point", "is_complex", "element_size", "itemsize", "type")
_LAYOUT = ("is_contiguous", "stride", "dim_order")
_PARAMETER = "Parameter"


@dataclass(frozen=True)
class Asked:
    """What a graph must assert of its tensors.

    Args:
        dtypes: whether their dtypes.
        layouts: whether how they lie in memory.
        identities: whether which of them are one tensor.
        parameters: whether which of them are parameters.
    """

    dtypes: bool = False
    layouts: bool = False
    identities: bool = False
    parameters: bool = False

    def write(self, graph: fx.Graph, node: fx.Node, name: str, value: torch.Tensor) -> None:
        """Assert it of one argument. Floating point is floating point, unless the dtype was asked
        for: a graph may be converted with ``half()``.
        """
        if self.dtypes or not value.is_floating_point():
            kind = graph.call_function(builtins.getattr, (node, "dtype"))
            same = graph.call_function(operator.eq, (kind, value.dtype))
            say(graph, same, f"{name} of {value.dtype}")
        else:
            floats = graph.call_method("is_floating_point", (node,))
            say(graph, floats, f"{name} of a floating-point dtype")
        # Python asks nobody whether a parameter is one, so that cannot be noted.
        if self.parameters or type(value) is nn.Parameter:
            self._write_type(graph, node, name, value)
        if self.layouts:
            self._write_layout(graph, node, name, value)

    def _write_type(self, graph: fx.Graph, node: fx.Node, name: str, value: torch.Tensor) -> None:
        # torch.fx cannot wrap type() on Python 3.12, and writes getattr of two as x.__class__.
        kind = graph.call_function(builtins.getattr, (node, "__class__", None))
        written = graph.call_function(builtins.repr, (kind,))  # a graph's code can hold no class
        kind.meta["is_wrapped"] = written.meta["is_wrapped"] = True
        same = graph.call_function(operator.eq, (written, repr(type(value))))
        say(graph, same, f"{name} of the class {type(value).__name__}")

    def _write_layout(self, graph: fx.Graph, node: fx.Node, name: str, value: torch.Tensor) -> None:
        for layout in (torch.contiguous_format, torch.channels_last, torch.channels_last_3d):
            rank = {torch.channels_last: 4, torch.channels_last_3d: 5}.get(layout, value.dim())
            if rank == value.dim() and value.is_contiguous(memory_format=layout):
                same = graph.call_method("is_contiguous", (node,), {"memory_format": layout})
                say(graph, same, f"{name} in {layout}")
                return
        strides = graph.call_method("stride", (node,))
        same = graph.call_function(operator.eq, (strides, value.stride()))
        say(graph, same, f"{name} of strides {value.stride()}")

    def write_identities(self, graph: fx.Graph, leaves: list[tuple[fx.Node, str, Any]]) -> None:
        """Assert which arguments are one tensor, as the example's are, and which are not."""
        tensors = [leaf for leaf in leaves if isinstance(leaf[2], torch.Tensor)]
        for (first, name, one), (second, other_name, other) in itertools.combinations(tensors, 2):
            if not self.identities or _kind(one) != _kind(other):
                continue
            test, word = (operator.is_, "is") if one is other else (operator.is_not, "is not")
            same = graph.call_function(test, (first, second))
            same.meta["is_wrapped"] = True
            say(graph, same, f"inputs where {name} {word} {other_name}")


NOTHING = Asked()


class _Looks:
    """``isinstance(x, nn.Parameter)`` in this thread, while somebody notes it. Python calls
    ``__instancecheck__`` of the metaclass, which stands for all threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered = 0
        self._here = threading.local()
        self._kind: Any = type(nn.Parameter)
        self._look: Any = self._kind.__instancecheck__

    def enter(self, names: set[str]) -> None:
        self._here.noting = (*getattr(self._here, "noting", ()), names)
        with self._lock:
            self._entered += 1
            if self._entered == 1:
                self._look = self._kind.__instancecheck__
                self._kind.__instancecheck__ = self._noted()

    def leave(self, names: set[str]) -> None:
        self._here.noting = tuple(n for n in self._here.noting if n is not names)
        with self._lock:
            self._entered -= 1
            if self._entered == 0:
                self._kind.__instancecheck__ = self._look

    def _noted(self) -> Callable[[Any, object], bool]:
        look = self._look

        def noted(asked: Any, instance: object) -> bool:
            noting = getattr(self._here, "noting", ())
            if noting and isinstance(instance, torch.Tensor) and _is_asked():
                for names in noting:
                    names.add(_PARAMETER)
            return bool(look(asked, instance))

        return noted


_looks = _Looks()


class Questions(TorchFunctionMode):
    """Notes what Python code other than torch's asks of tensors while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        about = args[0] if args else next(iter((kwargs or {}).values()), None)
        if name in _DTYPE + _LAYOUT and type(about) is not nn.Parameter and _is_asked():
            self.names.add(name)
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> Questions:
        _looks.enter(self.names)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        _looks.leave(self.names)

    def asked(self) -> Asked:
        """What of that a graph must assert."""
        dtypes, layouts = (not self.names.isdisjoint(names) for names in (_DTYPE, _LAYOUT))
        return Asked(dtypes, layouts, parameters=_PARAMETER in self.names)


def _is_asked() -> bool:
    """Whether the code that is two frames up is other than torch's and ours."""
    asker = str(sys._getframe(2).f_globals.get("__name__", ""))
    return asker.split(".")[0] not in ("torch", "bnfx")


def _kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    return (tensor.shape, tensor.dtype, tensor.device)


def apart(bound: inspect.BoundArguments) -> inspect.BoundArguments:
    """The arguments, of which no two are one tensor."""
    seen: set[int] = set()

    def own(tensor: torch.Tensor) -> torch.Tensor:
        repeated = id(tensor) in seen
        seen.add(id(tensor))
        return tensor.clone() if repeated else tensor

    return _with_tensors(bound, own)


def tells_tensors_apart(
    answer: Callable[[inspect.BoundArguments], Any], bound: inspect.BoundArguments
) -> bool:
    """Whether the answer depends on which arguments are one tensor, as ``key is value`` does.

    That is tried out, with arguments of the same shape that are all equal, as one tensor and as
    copies of it.

    Args:
        answer: takes arguments; the same ones give the same answer to the last bit.
        bound: the example.
    """
    tensors = [t for t in pytree.tree_leaves((bound.args, bound.kwargs)) if _is_plain(t)]
    firsts: dict[tuple[Any, ...], torch.Tensor] = {}
    numbers: defaultdict[tuple[Any, ...], int] = defaultdict(int)
    for tensor in tensors:
        firsts.setdefault(_kind(tensor), tensor)
        numbers[_kind(tensor)] += 1
    if all(number == 1 for number in numbers.values()):
        return False
    if any(not t.is_floating_point() and not torch.equal(t, firsts[_kind(t)]) for t in tensors):
        return True  # an index is of its own table: the numbers of another may be out of its range
    one = _with_tensors(bound, lambda tensor: firsts[_kind(tensor)])
    try:
        return not _equal(answer(one), answer(apart(one)))
    except Exception:
        return True  # not for these numbers: then what the example's are is asserted


def _is_plain(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def _with_tensors(
    bound: inspect.BoundArguments, change: Callable[[torch.Tensor], torch.Tensor]
) -> inspect.BoundArguments:
    changed = pytree.tree_map(lambda v: change(v) if _is_plain(v) else v, dict(bound.arguments))
    return inspect.BoundArguments(bound.signature, changed)


def _equal(one: Any, other: Any) -> bool:
    ours, theirs = pytree.tree_leaves(one), pytree.tree_leaves(other)
    return len(ours) == len(theirs) and all(map(_same, ours, theirs))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and torch.equal(
            torch.nan_to_num(one), torch.nan_to_num(other)
        )
    return type(one) is type(other)
