"""Code that goes through all modules, or all weights, or looks them up by a name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from bnfx.folding.modules.reading.computed_names import ANY, pattern
from bnfx.folding.modules.reading.dependence import SELVES, is_identity, is_local, sets_weights_up
from bnfx.folding.modules.reading.reachable import Function
from bnfx.folding.modules.reading.uses import Uses

# What a name computed for them stands for, an attribute by that name does.
BY_NAME = frozenset(
    ["get_submodule", "get_parameter", "get_buffer", "__getattr__", "__getattribute__"]
)
_FILES = re.compile(r"_*(save|load|from|export|state_dict|get_state|set_state)\w*")
WEIGHTS = frozenset(["parameters", "named_parameters", "buffers", "named_buffers"])
_WEIGHT_FACTS = frozenset(
    ["requires_grad", "requires_grad_", "dtype", "device", "shape", "size", "dim", "ndim", "grad"]
)
_WEIGHT_FACTS |= frozenset(
    ["numel", "nelement", "element_size", "is_floating_point", "is_cuda", "is_meta", "is_complex"]
)
_GETTING = ("__getattr__", "__getattribute__")
_PASSING = frozenset(["next", "iter", "list", "tuple", "enumerate", "len", "reversed"])


class Walks(Uses):
    """What is harmless of it."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: dict[ast.AST, Function] = {}
        self._catches: bool | None = None
        self._sets_modes: bool | None = None

    def catches(self) -> bool:
        if self._catches is None:
            nodes = (node for function in self.functions for node in ast.walk(function))
            self._catches = any(self.goes_on(node) for node in nodes)
        return self._catches

    def sets_modes(self) -> bool:
        if self._sets_modes is None:
            nodes = (node for function in self.functions for node in ast.walk(function))
            self._sets_modes = any(
                isinstance(node, ast.Attribute)
                and node.attr == "training"
                and not isinstance(node.ctx, ast.Load)
                for node in nodes
            )
        return self._sets_modes

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

    def is_named_elsewhere(self, node: ast.Attribute) -> bool:
        """Whether what is looked up by name is named in a mention of its own: by a constant, or,
        as in ``super().__getattr__(name)`` of ``__getattr__(self, name)``, where it is asked for.
        """
        scope, call = self.scope(node), self.parents.get(node)
        if isinstance(call, ast.Call) and call.args and isinstance(call.args[-1], ast.Constant):
            return call.func is node
        if not isinstance(scope, ast.FunctionDef) or scope.name != node.attr:
            return False
        if not isinstance(call, ast.Call) or call.func is not node or len(scope.args.args) != 2:
            return False
        name = scope.args.args[1].arg
        names = (n for n in ast.walk(scope) if isinstance(n, ast.Name) and n.id == name)
        last = call.args[-1] if call.args else None
        return (
            isinstance(last, ast.Name)
            and last.id == name
            and all(isinstance(n.ctx, ast.Load) for n in names)
        )

    def gives_others(self, function: Function) -> bool:
        """Whether ``__getattr__`` may give something else than what is registered by a name."""
        node = function.node
        if not isinstance(node, ast.FunctionDef) or node.name not in _GETTING:
            return False
        first = next(filter(_does_something, node.body), None)
        if isinstance(first, ast.Try) and not first.finalbody:
            first = first.body[0]
        value = first.value if isinstance(first, ast.Return) else None
        look_up = value.func if isinstance(value, ast.Call) else None
        return not isinstance(look_up, ast.Attribute) or not self.is_named_elsewhere(look_up)

    def rebound(self, node: ast.Attribute) -> Iterator[tuple[re.Pattern[str], bool]]:
        """Names that ``self.add_module(name, ...)`` may bind; whether in what is below, too."""
        call, scope = self.parents.get(node), self.scope(node)
        given = call.args[0] if isinstance(call, ast.Call) and call.args else None
        if given is None or not isinstance(call, ast.Call) or call.func is not node:
            yield ANY, True
        elif isinstance(scope, ast.FunctionDef) and scope.name == node.attr:
            return  # what another class makes of the names that it is given
        elif not self._is_made_here(node.value, scope):
            below = node.attr == "set_submodule"
            yield (ANY if below else pattern(given, scope)), below

    def _is_made_here(self, node: ast.AST, scope: ast.AST | None) -> bool:
        """``block`` of ``block = nn.Sequential()``, bound nowhere else."""
        if not isinstance(node, ast.Name) or scope is None or not is_local(node.id, scope):
            return False
        stores = [
            self.parents[n]
            for n in ast.walk(scope)
            if isinstance(n, ast.Name) and n.id == node.id and not isinstance(n.ctx, ast.Load)
        ]
        return bool(stores) and all(
            isinstance(each, ast.Assign)
            and isinstance(each.value, ast.Call)
            and isinstance(self.resolve(each.value.func), type)
            for each in stores
        )

    def is_for_a_file(self, node: ast.Attribute) -> bool:
        """Whether ``state_dict()`` is saved, or looked at where others are loaded."""
        name, call = self.function_name(node), self.parents.get(node)
        above = self.parents.get(call) if isinstance(call, ast.Call) else None
        saved = isinstance(above, ast.Call) and getattr(above.func, "attr", "") == "save"
        return saved or _FILES.fullmatch(name) is not None or sets_weights_up(name)

    def is_harmless_apply(self, inside: str, node: ast.Attribute) -> bool:
        """Whether ``apply`` hands modules to a function that sets weights up, or looks at them."""
        call = self.parents.get(node)
        if isinstance(self.resolve(node.value), type):
            return True  # of a torch.autograd.Function
        if not isinstance(call, ast.Call) or call.func is not node or len(call.args) != 1:
            return False
        given = call.args[0]
        name = getattr(given, "attr", getattr(given, "id", ""))
        if sets_weights_up(name) or sets_weights_up(inside):
            return True  # trusted: it is meant for weights that were not learned yet
        callee = self.resolve(given)
        nodes: list[ast.AST] = [n for n, f in self.functions.items() if f.function is callee]
        scope = self.scope(node)
        if isinstance(given, ast.Lambda):
            nodes = [given]
        elif isinstance(given, ast.Name) and scope is not None:
            inner = (n for n in ast.walk(scope) if isinstance(n, ast.FunctionDef))
            nodes += [n for n in inner if n.name == name]
        elif isinstance(given, ast.Attribute):
            nodes += [n for n in self.functions if getattr(n, "name", "") == name]
        return bool(nodes) and all(map(self._looks_only, nodes))

    def _looks_only(self, function: ast.AST) -> bool:
        """Whether a function does nothing but what is harmless with each of its arguments."""
        assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        names = {argument.arg for argument in function.args.args}
        uses = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id in names]
        return all(isinstance(n.ctx, ast.Load) and self.is_harmless(n) for n in uses)

    def is_harmless_weights(self, node: ast.Attribute) -> bool:
        """Whether of ``self.parameters()`` only facts are read, or flags set."""
        call = self.parents.get(node)
        if not isinstance(call, ast.Call) or call.func is not node:
            return False
        above = self.parents.get(call)
        while isinstance(above, ast.Call) and getattr(above.func, "id", "") in _PASSING:
            call, above = above, self.parents.get(above)
        if isinstance(above, ast.Call) and above.func is not call:
            path = ast.unparse(above.func)
            return "optim" in path or "clip_grad" in path  # for training, which a fold is not for
        if isinstance(above, ast.Attribute):
            return above.attr in _WEIGHT_FACTS
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
        uses = [n for n in ast.walk(scope) if isinstance(n, ast.Name) and n.id == weight.id]
        return all(isinstance(n.ctx, ast.Store) or self._is_fact(n) for n in uses)

    def _is_fact(self, node: ast.AST) -> bool:
        parent = self.parents.get(node)
        if isinstance(parent, ast.Compare):
            return is_identity(parent)
        return isinstance(parent, ast.Attribute) and parent.attr in _WEIGHT_FACTS

    def is_harmless_walk(self, node: ast.Attribute) -> bool:
        """``for m in self.modules()``, whose ``m`` is neither run nor kept."""
        call = self.parents.get(node)
        above = self.parents.get(call) if call is not None else None
        if isinstance(above, ast.Call) and getattr(above.func, "id", "") == "enumerate":
            call, above = above, self.parents.get(above)
        if not isinstance(call, ast.Call) or not isinstance(above, (ast.For, ast.comprehension)):
            return False
        names = {n.id for n in ast.walk(above.target) if isinstance(n, ast.Name)}
        scope = self.scope(node)
        if scope is None or not all(is_local(name, scope) for name in names):
            return False
        uses = [n for n in ast.walk(scope) if isinstance(n, ast.Name) and n.id in names]
        return all(isinstance(use.ctx, ast.Store) or self.is_harmless(use) for use in uses)


def _does_something(statement: ast.AST) -> bool:
    """Whether it is no docstring."""
    return not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant)


def _returns(function: ast.AST, name: str) -> bool:
    given = (n.value for n in ast.walk(function) if isinstance(n, ast.Return))
    return any(isinstance(value, ast.Name) and value.id == name for value in given)


def _is_next(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "next"
