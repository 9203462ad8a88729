"""The frame that Dynamo evaluates for a call of a compiled model, and its local variables."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from bnfx.direct.watched import NotDirectError, Watched, looked_up, vars_of

# What lies between a call and forward, as torch wrote it: unless it was patched before the import.
_TORCHS = {
    name: getattr(nn.Module, name) for name in ("__call__", "_wrapped_call_impl", "_call_impl")
}


@dataclass(frozen=True, eq=False)
class Frame:
    """One call's frame, but for the arguments.

    Args:
        function: whose frame it is: as long as its code, defaults and closure are as they were.
        code: of the function, as it was written.
        module_globals: of that function.
        fixed: what locals and free variables hold, whatever the arguments are: the model is one.
        names: of the parameters that take positional arguments.
        defaults: of parameters.
        rest: the name of ``*args``, if there is one.
        keywords: the name of ``**kwargs``, if there is one.
    """

    function: FunctionType
    code: CodeType
    module_globals: dict[str, Any]
    fixed: Mapping[str, Any]
    names: tuple[str, ...]
    defaults: Mapping[str, Any]
    rest: str | None
    keywords: str | None

    @staticmethod
    def of(model: nn.Module, entered: Any) -> Frame:
        """The frame of a model.

        Args:
            entered: what torch.compile enters: ``model.__call__``, or a function around it.

        Raises:
            NotDirectError: if something runs before that frame that nobody guards.
        """
        if isinstance(entered, MethodType):
            if entered.__self__ is not model or entered.__func__ is not nn.Module.__call__:
                raise NotDirectError("the model has a __call__ of its own")
            for name, function in _TORCHS.items():
                if getattr(type(model), name) is not function or name in vars_of(model):
                    raise NotDirectError(f"the model has a {name} of its own")
                if getattr(function, "__globals__", None) is not vars(nn.modules.module):
                    raise NotDirectError(f"torch.nn.Module.{name} was patched")
            return _of_function(_forward_of(model), (model,))
        return _of_function(entered, ())

    def is_same(self, other: Frame) -> bool:
        """Whether another one holds the very same. (Tensors cannot be asked whether they equal.)"""
        ours, theirs = self._before_arguments, other._before_arguments
        return (
            (self.function, self.code) == (other.function, other.code)
            and ours.keys() == theirs.keys()
            and all(value is theirs[name] for name, value in ours.items())
        )

    def watch(self, watched: Watched) -> None:
        """Watch what the frame was read from."""
        watched.add(self.function)
        watched.add(self.function.__kwdefaults__)
        for cell in self.function.__closure__ or ():
            watched.add(cell)

    @cached_property
    def _before_arguments(self) -> dict[str, Any]:
        return {**self.fixed, **self.defaults}

    def scope(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """The variables for these arguments; ``None`` where they do not fit."""
        scope = self._before_arguments.copy()
        scope.update(zip(self.names, args, strict=False))
        if not kwargs and len(args) == len(self.names) and not (self.rest or self.keywords):
            return scope  # the usual case: what follows costs small nets
        if self.rest is not None:
            scope[self.rest] = tuple(args[len(self.names) :])
        elif len(args) > len(self.names):
            return None
        more = dict[str, Any]()
        for name, value in kwargs.items():
            known = name in self.names or name in self.defaults
            if known and name not in self.names[: len(args)]:
                scope[name] = value
            elif known or self.keywords is None or name in self.fixed:
                return None
            else:
                more[name] = value
        if self.keywords is not None:
            scope[self.keywords] = more
        return scope if all(name in scope for name in self.names) else None


def _forward_of(model: nn.Module) -> Any:
    """The function that ``model.forward`` is, as long as nothing is assigned."""
    looked_up(type(model))
    if not isinstance(inspect.getattr_static(type(model), "forward"), FunctionType):
        raise NotDirectError("its class computes what its forward is")  # a property
    forward = model.forward
    if not isinstance(forward, MethodType) or forward.__self__ is not model:
        raise NotDirectError("its forward is no method of its own")
    return forward.__func__


def _of_function(function: Any, bound: tuple[Any, ...]) -> Frame:
    if not isinstance(function, FunctionType):
        raise NotDirectError("its forward is no function in Python")
    code = function.__code__
    positional = code.co_varnames[: code.co_argcount]
    by_name = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    if code.co_posonlyargcount > len(bound) or len(positional) < len(bound):
        raise NotDirectError("its forward takes arguments by position alone")
    defaults = dict(zip(reversed(positional), reversed(function.__defaults__ or ()), strict=False))
    defaults |= {n: v for n, v in (function.__kwdefaults__ or {}).items() if n in by_name}
    if any(name not in defaults for name in by_name):
        raise NotDirectError("its forward needs arguments by keyword")
    more = list(code.co_varnames[len(positional) + len(by_name) :])
    rest = more.pop(0) if code.co_flags & inspect.CO_VARARGS else None
    keywords = more.pop(0) if code.co_flags & inspect.CO_VARKEYWORDS else None
    try:
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:
        raise NotDirectError("a variable of its forward is not set yet") from None
    fixed = dict(zip(code.co_freevars, cells, strict=True))
    fixed |= dict(zip(positional, bound, strict=False))
    names = positional[len(bound) :]
    return Frame(function, code, function.__globals__, fixed, names, defaults, rest, keywords)
