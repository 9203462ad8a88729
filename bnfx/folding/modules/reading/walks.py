"""Code that goes through all modules, or all weights, or looks them up by a name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from bnfx.folding.capturing.asking.shown_text import called_name
from bnfx.folding.modules.reading.computed_names import ANY, pattern
from bnfx.folding.modules.reading.dependence import SELVES, is_identity, is_local, sets_weights_up
from bnfx.folding.modules.reading.in_sight import InSight
from bnfx.folding.modules.reading.reachable import Function

# What a name computed for them stands for, an attribute by that name does.
BY_NAME = frozenset(
    ["get_submodule", "get_parameter", "get_buffer", "__getattr__", "__getattribute__"]
)
_FILES = re.compile(r"_*(save|load|from|export|state_dict|get_state|set_state)\w*")
WEIGHTS = frozenset(["parameters", "named_parameters", "buffers", "named_buffers"])
STATES = frozenset(["state_dict", "load_state_dict"])
_WEIGHT_FACTS = frozenset(
    ["requires_grad", "requires_grad_", "dtype", "device", "shape", "size", "dim", "ndim", "grad"]
)
_WEIGHT_FACTS |= frozenset(
    ["numel", "nelement", "element_size", "is_floating_point", "is_cuda", "is_meta", "is_complex"]
)
_TORCH = str(Path(torch.__file__).parent)
GETTING = ("__getattr__", "__getattribute__")
_PASSING = frozenset(["next", "iter", "list", "tuple", "enumerate", "len", "reversed"])


def _is_torchs(function: Function) -> bool:
    """Such as what ``@torch.no_grad()`` makes of a method: it swallows nothing."""
    return function.function.__code__.co_filename.startswith(_TORCH)


class Walks(InSight):
    """What is harmless of it."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: dict[ast.AST, Function] = {}
        self._catches: bool | None = None
        self._sets_modes: bool | None = None

    def defines(self, name: str) -> bool:
        return any(getattr(node, "name", "") == name for node in self.functions)

    def catches(self) -> bool:
        if self._catches is None:
            code = (n for n, f in self.functions.items() if not _is_torchs(f))
            self._catches = any(self.goes_on(node) for each in code for node in ast.walk(each))
        return self._catches

    def sets_modes(self) -> bool:
        if self._sets_modes is None:
            nodes = (node for function in self.functions for node in ast.walk(function))
            self._sets_modes = any(map(_sets_mode, nodes))
        return self._sets_modes

    def has_common(self, fact: str, of: ast.AST) -> bool:
        """Whether all weights have the same dtype, say, and modules some that stay."""
        raise NotImplementedError

    def gives_itself(self, method: str) -> bool:
        return method in SELVES or any(
            getattr(node, "name", "") == method and _returns(node, function.owner)
            for node, function in self.functions.items()
        )

    def is_handed_on(self, attribute: ast.AST) -> bool:
        """``for layer in self.eval()``: what a method gives back is ``self``, and is used."""
        call = self.parents.get(attribute)
        return (
            isinstance(attribute, ast.Attribute)
            and isinstance(call, ast.Call)
            and call.func is attribute
            and self.gives_itself(attribute.attr)
            and not isinstance(self.parents.get(call), (ast.Expr, ast.Return))
        )

    def parameters_for(self, call: ast.Call, given: ast.AST) -> Iterator[tuple[ast.AST, str]]:
        keyword = next((each.arg for each in call.keywords if each.value is given), "")
        if keyword is None or any(isinstance(each, ast.Starred) for each in call.args):
            raise LookupError("it is given among others")
        resolved = self.resolve(call.func)
        by_name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        found = [
            (node, function.function.__code__)
            for node, function in self.functions.items()
            if function.function is resolved
            or (resolved is None and getattr(node, "name", "") == by_name)
        ]
        if not found or (resolved is None and hasattr(nn.Module, by_name)):
            raise LookupError("what is called is not read")
        for node, code in found:
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            place = 0 if keyword else list[ast.AST](call.args).index(given) + (resolved is None)
            if keyword not in ("", *names) or place >= code.co_argcount:
                raise LookupError("it is one of several")
            yield node, keyword or names[place]

    def is_for_a_file(self, node: ast.Attribute) -> bool:
        """Whether ``state_dict()`` is saved, or looked at where others are loaded, in no call."""
        name, call = self.function_name(node), self.parents.get(node)
        above = self.parents.get(call) if isinstance(call, ast.Call) else None
        saved = isinstance(above, ast.Call) and getattr(above.func, "attr", "") == "save"
        trusted = _FILES.fullmatch(name) is not None or sets_weights_up(name)
        return (saved or trusted) and not self.runs_in_calls(node)

    def is_harmless_apply(self, inside: str, node: ast.Attribute) -> bool:
        """Whether ``apply`` hands modules to a function that sets weights up."""
        call = self.parents.get(node)
        kind = self.resolve(node.value)
        if isinstance(kind, type) and issubclass(kind, torch.autograd.Function):
            return True
        if not isinstance(call, ast.Call) or call.func is not node or len(call.args) != 1:
            return False
        given = call.args[0]
        name = getattr(given, "attr", getattr(given, "id", ""))
        # Trusted by its name: it is meant for weights that were not learned yet.
        trusted = sets_weights_up(name) or sets_weights_up(inside)
        return trusted and not self.runs_in_calls(node)

    def is_harmless_weights(self, node: ast.Attribute) -> bool:
        """Whether of ``self.parameters()`` only facts are read, or flags set.

        On how many there are, and how large, no answer may depend.
        """
        call = self.parents.get(node)
        if not isinstance(call, ast.Call) or call.func is not node:
            return False
        answers = self.answers(node)
        facts = self._facts_that_stay(node, call) if answers else _WEIGHT_FACTS
        above = self.parents.get(call)
        while isinstance(above, ast.Call) and self.python_name(above) in _PASSING:
            call, above = above, self.parents.get(above)
        if isinstance(above, ast.Call) and above.func is not call:
            path = ast.unparse(above.func)
            trains = "optim" in path or "clip_grad" in path  # for which a fold is not
            return trains and not answers
        if isinstance(above, ast.Attribute):
            return above.attr in facts
        named = node.attr.startswith("named")
        if isinstance(above, ast.Assign) and len(above.targets) == 1 and _is_next(call):
            target: ast.AST = above.targets[0]
        elif isinstance(above, (ast.For, ast.comprehension)) and above.iter is call:
            target = above.target
        else:
            return False
        weight = target.elts[-1] if isinstance(target, ast.Tuple) and named else target
        scope = self.scope(node)
        if not isinstance(weight, ast.Name) or scope is None or not is_local(weight.id, scope):
            return False
        names = {weight.id}
        if answers:
            names |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
        uses = [n for n in ast.walk(scope) if isinstance(n, ast.Name) and n.id in names]
        shown = (isinstance(n.ctx, ast.Store) or self._is_fact(n, facts) for n in uses)
        return bool(facts) and all(shown)

    def _facts_that_stay(self, node: ast.Attribute, call: ast.Call) -> frozenset[str]:
        """The facts that any answer may depend on: flags that are set in a loop which does no more,
        or what all weights have in common, of the first one.
        """
        above = self.parents.get(call)
        if self._only_sets_up(above):
            return frozenset(["requires_grad", "requires_grad_"])
        if node.attr == "parameters" and _is_next(above):
            return frozenset(f for f in ("dtype", "device") if self.has_common(f, node.value))
        return frozenset()

    def _only_sets_up(self, loop: ast.AST | None) -> bool:
        """Whether a loop does nothing but set flags and modes, once for each."""
        return isinstance(loop, ast.For) and all(map(self.sets_up, (*loop.body, *loop.orelse)))

    def _is_fact(self, node: ast.AST, facts: frozenset[str]) -> bool:
        parent = self.parents.get(node)
        if isinstance(parent, ast.Compare):
            return is_identity(parent)
        return isinstance(parent, ast.Attribute) and parent.attr in facts

    def is_harmless_walk(self, node: ast.Attribute) -> bool:
        """``for m in self.modules()``, whose ``m`` is neither run nor kept."""
        call = self.parents.get(node)
        if not isinstance(call, ast.Call) or call.func is not node:
            return False
        above = self.parents.get(call)
        if isinstance(above, ast.Call) and self.python_name(above) == "enumerate":
            call, above = above, self.parents.get(above)
        if not isinstance(above, (ast.For, ast.comprehension)) or above.iter is not call:
            return False
        names = {n.id for n in ast.walk(above.target) if isinstance(n, ast.Name)}
        scope = self.scope(node)
        if self.answers(node) and not self._only_sets_up(above):
            return False  # it may count them
        if scope is None or not all(is_local(name, scope) for name in names):
            return False
        uses = [n for n in ast.walk(scope) if isinstance(n, ast.Name) and n.id in names]
        return all(isinstance(use.ctx, ast.Store) or self.is_harmless(use) for use in uses)


def is_trusted_name(name: str) -> bool:
    """Whether a function of that name sets weights up, or reads or writes files."""
    return sets_weights_up(name) or _FILES.fullmatch(name) is not None


def _sets_mode(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        asked = called_name(node) == "setattr" and len(node.args) > 1
        name = pattern(node.args[1]) if asked else ANY
        # A name that may be any is a mention of all that the module has.
        return name is not ANY and name.fullmatch("training") is not None
    written = isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)
    return written and getattr(node, "attr", "") == "training"


def _returns(function: ast.AST, name: str) -> bool:
    given = (n.value for n in ast.walk(function) if isinstance(n, ast.Return))
    return any(isinstance(value, ast.Name) and value.id == name for value in given)


def _is_next(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "next"
