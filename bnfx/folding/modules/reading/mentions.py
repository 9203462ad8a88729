"""Where code names a module of the model, or may compute its name, and what it does with it."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Container, Iterator
from typing import Any

from torch import nn

from bnfx.folding.modules.reading.computed_names import (
    ANY,
    REBINDING,
    attribute,
    bindings,
    exactly,
    is_of,
    pattern,
)
from bnfx.folding.modules.reading.computing import ACCESS, COMPUTING, computes, takes_apart
from bnfx.folding.modules.reading.dependence import parents_of
from bnfx.folding.modules.reading.functions.naming import resolve_global
from bnfx.folding.modules.reading.owners import Mention, Owners
from bnfx.folding.modules.reading.reachable import Function, Reachable
from bnfx.folding.modules.reading.running import Running
from bnfx.folding.modules.reading.texts import Texts, made_text
from bnfx.folding.modules.reading.walks import (
    BY_NAME,
    GETTING,
    STATES,
    WEIGHTS,
    Walks,
    is_trusted_name,
)

_WALKS = frozenset(
    [
        "modules",
        "named_modules",
        "children",
        "named_children",
        "_modules",
        "__dict__",
    ]
)
# Those that give children only: whatever is below is named anew.
_DIRECT = frozenset(["children", "named_children", "_modules", "getattr", "setattr", "delattr"])
# What calls or changes all below, whatever it is given.
_THROUGH = frozenset([*REBINDING, *BY_NAME, "_apply", "_named_members"])
# A fold gives them other weights, and puts nothing in their place.
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


class Mentions(Walks):
    """All mentions in the code that a model can reach."""

    def __init__(self, reachable: Reachable) -> None:
        self.model = reachable.model
        super().__init__()
        self._all: list[Mention] = []
        for function in reachable.functions:
            self.functions[function.node] = function
            self.parents |= parents_of(function.node)
        self._running = Running(reachable, is_trusted_name)
        names = {path.rpartition(".")[2] for path, _ in self.model.named_modules()}
        self._texts = Texts(self, [f.node for f in reachable.functions], names - {""})
        for function in reachable.functions:
            self._read(function)
        self._owners = Owners(reachable, self._all, self)

    def _read(self, function: Function) -> None:
        making = function.kind is not None and function.node.__dict__.get("name") == "__init__"
        if getattr(function.node, "name", "") in GETTING:
            owner = ast.Name(function.owner, ast.Load())  # it may give anything
            self._all.append(Mention(function, function.node, ANY, owner))
        for node in ast.walk(function.node):
            for mention in self._mentions(function, node):
                if not making or not is_of(mention.base, function.owner):
                    self._all.append(mention)  # else of an object that is made just now

    def _mentions(self, function: Function, node: ast.AST) -> Iterator[Mention]:
        for value in made_text(node):
            if self._texts.is_module(value, function.owner) and not self.decides_nothing(node):
                yield Mention(function, function.node, ANY, value, True)
        if isinstance(node, ast.Attribute):
            yield Mention(function, node, attribute(node.attr), node.value)
            if node.attr in _WALKS and not self.is_harmless_walk(node):
                below = node.attr not in _DIRECT
                yield Mention(function, self.parents[node], ANY, node.value, below)
            if self._goes_through(function, node):
                yield Mention(function, node, ANY, node.value, True)
            if self._may_be_any(function, node):
                yield Mention(function, node, ANY, None)
        elif isinstance(node, ast.Name) and node.id in COMPUTING | ACCESS:
            call = self.parents.get(node)
            if node.id in COMPUTING or not isinstance(call, ast.Call) or call.func is not node:
                yield Mention(function, node, ANY, None)
            elif len(call.args) > 1 and not any(isinstance(a, ast.Starred) for a in call.args):
                name = pattern(call.args[1], self.scope(call))
                asked = call if node.id == "getattr" else node
                yield Mention(function, asked, name, call.args[0])
            else:
                yield Mention(function, call, ANY, None)
        elif takes_apart(node) or computes(function, node):
            yield Mention(function, node, ANY, None)
        elif isinstance(node, ast.Name) and node.id == function.owner and node.id:
            around = self.parents[node]
            stays = self.stays(node, around) and not self.is_handed_on(around)
            if not stays and not self._is_only_named(around, node, frozenset()):
                # ``for layer in self``, ``self[0]``; a function may go deeper
                below = not isinstance(around, (ast.For, ast.comprehension, ast.Subscript))
                yield Mention(function, node, ANY, node, below)
        elif isinstance(node, ast.MatchClass):
            yield from (Mention(function, node, exactly(name), None) for name in node.kwd_attrs)
            if node.patterns:  # ``__match_args__`` says which attributes they are
                yield Mention(function, node, ANY, None)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            parent = self.parents.get(node)
            if isinstance(parent, ast.Call) and getattr(parent.func, "id", "") in (
                "getattr",
                "hasattr",
            ):
                return
            if isinstance(parent, ast.Expr) or not re.fullmatch(r"[\w.]+", node.value):
                return
            for part in node.value.split("."):
                if not part.isdigit():
                    name = ANY if part == "__class__" else exactly(part)
                    yield Mention(function, node, name, None)

    def _goes_through(self, function: Function, node: ast.Attribute) -> bool:
        """Whether a method of that name may look at, run or change whatever is below a module."""
        if node.attr == self.function_name(node) == "_apply":
            return False  # who calls that is seen
        return (
            node.attr in _THROUGH
            or (node.attr == "apply" and not self.is_harmless_apply(function.name, node))
            or (node.attr == "train" and not self.is_mode(node))
            or (node.attr in STATES and not self.is_for_a_file(node))
            or (node.attr in WEIGHTS and not self.is_harmless_weights(node))
        )

    def _may_be_any(self, function: Function, node: ast.Attribute) -> bool:
        """Whether any attribute of any module may be got by it."""
        if node.attr == "__class__":  # whose methods are read as those of other modules
            return not isinstance(node.ctx, ast.Load)
        if node.attr == "__init__":  # which is not read, or as that of a new object
            return self.function_name(node) != "__init__"
        known = node.attr in COMPUTING - {"compile", "eval"}
        return known or computes(function, node)

    def resolve(self, node: ast.AST) -> Any:
        """What a name of the Python module stands for."""
        above = self._first_above(node, self.functions)
        root = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if above is None or not isinstance(root, ast.Name) or root.id in bindings(above):
            return None
        function = self.functions[above].function
        if root.id in function.__code__.co_freevars:
            return None
        return resolve_global(function, node)

    def python_name(self, call: ast.Call) -> str:
        """The name of Python's own function that is called; "" if it is another."""
        above = self._first_above(call, self.functions)
        if above is None or not isinstance(call.func, ast.Name):
            return ""
        name, function = call.func.id, self.functions[above].function
        known = getattr(builtins, name, None)
        bound = name in bindings(above) or name in function.__code__.co_freevars
        return "" if bound or function.__globals__.get(name, known) is not known else name

    def _is_only_named(self, call: ast.AST, given: ast.AST, seen: frozenset[Any]) -> bool:
        """Whether a function does with an argument what is a mention, or harmless, and no more."""
        if not isinstance(call, ast.Call) or given not in call.args:
            return False
        if any(isinstance(each, ast.Starred) for each in call.args):
            return False
        callee, place = self.resolve(call.func), list[ast.AST](call.args).index(given)
        nodes = [n for n, f in self.functions.items() if f.function is callee]
        if callee in seen or len(nodes) != 1 or place >= callee.__code__.co_argcount:
            return False
        name = callee.__code__.co_varnames[place]
        for use in (n for n in ast.walk(nodes[0]) if isinstance(n, ast.Name) and n.id == name):
            parent = self.parents.get(use)
            named = isinstance(parent, ast.Attribute) or self.is_harmless(use)
            if not isinstance(use.ctx, ast.Load) or not (
                named or (parent and self._is_only_named(parent, use, seen | {callee}))
            ):
                return False
        return True

    def runs_own_code(self, method: str) -> bool:
        """Whether a method of that name is torch's, or of a class with weights of its own."""
        kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d, nn.Sequential)
        if any(hasattr(kind, method) for kind in (*kinds, nn.ModuleList, nn.ModuleDict)):
            return True
        named = (m for m in self.model.modules() if hasattr(type(m), method))
        return any(module._parameters or module._buffers for module in named)

    def runs_in_calls(self, node: ast.AST) -> bool:
        return self._first_above(node, self._running.by_calls) is not None

    def answers(self, node: ast.AST) -> bool:
        return self._first_above(node, self._running.by_answers) is not None

    def _first_above(self, node: ast.AST | None, functions: Container[ast.AST]) -> ast.AST | None:
        """The innermost of the functions that a node stands in."""
        while node is not None and node not in functions:
            node = self.parents.get(node)
        return node

    def _modules(self, node: ast.AST) -> list[nn.Module]:
        """Those that it may stand for: all that have its name; for ``self``, all of the class."""
        if isinstance(node, ast.Attribute):
            places = self.model.named_modules(remove_duplicate=False)
            return [m for path, m in places if path.rpartition(".")[2] == node.attr]
        above = self._first_above(node, self.functions)
        function = None if above is None else self.functions[above]
        if function is None or function.kind is None or not is_of(node, function.owner):
            return []
        return [m for m in self.model.modules() if isinstance(m, function.kind)]

    def stays_a_layer(self, node: ast.AST) -> bool:
        found = self._modules(node)
        return bool(found) and all(isinstance(m, _LAYERS) for m in found)

    def has_common(self, fact: str, of: ast.AST) -> bool:
        found = self._modules(of)
        facts = {getattr(weight, fact) for weight in self.model.parameters()}
        layers = [any(isinstance(m, _LAYERS) for m in each.modules()) for each in found]
        return len(facts) == 1 and all(layers)

    def handed_on(self, owner: nn.Module, name: str) -> Mention | None:
        """Where that attribute is handed to what is not followed, if it is."""
        for mention in self.of(owner, name):
            if not isinstance(mention.node, ast.expr) or isinstance(mention.node, ast.Constant):
                continue  # a name, by which it is got elsewhere
            if not self.stays_in_sight(mention.node, name):
                return mention
        return None

    def of(self, owner: nn.Module, name: str) -> list[Mention]:
        """Those that may be the attribute ``name`` of ``owner``."""
        named = (m for m in self._all if m.name.fullmatch(name))
        return [m for m in named if self._owners.may_be(m, owner)]
