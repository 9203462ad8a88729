"""What code does with an expression that is a module: run it whole, look at it, or more."""

from __future__ import annotations

import ast

from bnfx.folding.capturing.asking.shown_text import called_name
from bnfx.folding.modules.reading.computed_names import bindings
from bnfx.folding.modules.reading.dependence import (
    HARMLESS_METHODS,
    Dependence,
    is_identity,
    is_local,
    runs_in_order,
    sets_weights_up,
)

HARMLESS_CALLS = frozenset(
    ["isinstance", "hasattr", "type", "id", "len", "print", "repr", "str", "issubclass"]
)
# What folding leaves as it is, or makes an error that is heard.
_FACTS = frozenset(
    [
        "dtype",
        "device",
        "shape",
        "requires_grad",
        "training",
        "in_channels",
        "out_channels",
        "in_features",
        "out_features",
        "num_features",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
    ]
)


class Uses(Dependence):
    """Expressions, and what stands around them."""

    def runs_own_code(self, method: str) -> bool:
        """Whether a method of that name may run a layer."""
        raise NotImplementedError

    def answers(self, node: ast.AST) -> bool:
        """Whether a call of the model, or of a method that is given something, may run it."""
        raise NotImplementedError

    def stays_a_layer(self, node: ast.AST) -> bool:
        """Whether it is the name of layers that have a weight after any fold."""
        raise NotImplementedError

    def sets_modes(self) -> bool:
        """Whether any code of the model's writes to an attribute ``training``."""
        raise NotImplementedError

    def gives_itself(self, method: str) -> bool:
        """Whether a method of that name may return the module that it belongs to."""
        raise NotImplementedError

    def python_name(self, call: ast.Call) -> str:
        """The name of Python's own function that is called; "" if it is another."""
        raise NotImplementedError

    def is_call(self, node: ast.AST) -> bool:
        """Whether the expression is only called."""
        parent = self.parents.get(node)
        return isinstance(parent, ast.Call) and parent.func is node

    def stays(self, node: ast.Name, parent: ast.AST) -> bool:
        """Whether ``self`` is named only to be called, asked for an attribute, compared, returned,
        or shown where no answer depends on that.
        """
        if isinstance(parent, ast.Call):
            name = self.python_name(parent)
            if name in ("repr", "str", "print"):
                return self.decides_nothing(parent)
            asked = name in ("getattr", "setattr", "delattr") and parent.args[0] is node
            return parent.func is node or asked or name in ("super", *HARMLESS_CALLS)
        if isinstance(parent, ast.Compare):
            return is_identity(parent)
        if isinstance(parent, ast.FormattedValue):
            return self.decides_nothing(parent)
        return isinstance(parent, (ast.Attribute, ast.Return, ast.Expr))

    def is_harmless(self, node: ast.AST) -> bool:
        """Whether what the code does with a module neither runs nor keeps nor changes it."""
        parent = self.parents.get(node)
        if isinstance(parent, ast.Compare):
            return is_identity(parent)
        if isinstance(parent, ast.FormattedValue):
            return self.decides_nothing(parent)
        if isinstance(parent, ast.Call) and parent.func is not node:
            name = self.python_name(parent)
            if name == "getattr" and len(parent.args) == 3 and parent.args[0] is node:
                return is_identity(self.parents.get(parent)) and self.decides_nothing(parent)
            if name in HARMLESS_CALLS:
                return name in ("id", "len") or self.decides_nothing(parent)
            return self.is_initialiser(parent) or self._is_set_up_by(parent)
        if isinstance(parent, ast.Attribute) and parent.value is node:
            above = self.parents.get(parent)
            if isinstance(above, ast.Call) and above.func is parent:
                if parent.attr == "extra_repr":
                    return self.decides_nothing(above)
                if self.gives_itself(parent.attr) and not self.is_statement(above):
                    return False  # ``self.conv.eval()(x)``
                if parent.attr == "train":
                    return self.is_mode(parent)
                # Its own code is read like all other; what is run there is seen there.
                return parent.attr in HARMLESS_METHODS or not self.runs_own_code(parent.attr)
            if isinstance(above, ast.Attribute):
                call = self.parents.get(above)
                if isinstance(call, ast.Call) and call.func is above:
                    return above.attr in HARMLESS_METHODS and self.is_statement(call)
                missed = self.answers(node) and not self.stays_a_layer(node)
                return above.attr in _FACTS and not self.catches() and not missed
            if parent.attr in _FACTS:
                if parent.attr == "num_features" and (self.catches() or self.answers(node)):
                    return False  # an identity has none
                return isinstance(parent.ctx, ast.Load) or parent.attr == "requires_grad"
            return (isinstance(above, ast.Call) and self.is_initialiser(above)) or (
                is_identity(above) and self.decides_nothing(parent)
            )
        return isinstance(parent, ast.Expr)

    def _is_set_up_by(self, call: ast.Call) -> bool:
        """``init_layer(self.conv)``, trusted by its name, as where it is passed to ``apply``."""
        name = called_name(call)
        trusted = sets_weights_up(name) and not self.runs_in_calls(call)
        return trusted and self.is_statement(call)

    def is_mode(self, method: ast.Attribute) -> bool:
        """Whether ``layer.train(...)`` does no more than ``train`` of the model, or is ``eval``."""
        call = self.parents.get(method)
        if not isinstance(call, ast.Call) or call.func is not method:
            return False
        given = call.args[0] if len(call.args) == 1 else None
        off = isinstance(given, ast.Constant) and given.value is False
        same = (
            isinstance(given, ast.Attribute)
            and given.attr == "training"
            and _is_within(method.value, given.value)
            and not self.sets_modes()
        )
        return off or same or (self._is_its_mode(given) and not self.runs_in_calls(call))

    def _is_its_mode(self, given: ast.AST | None) -> bool:
        """Whether it is what ``train`` itself is given."""
        scope = None if given is None else self.scope(given)
        if not isinstance(given, ast.Name) or not isinstance(scope, ast.FunctionDef):
            return False
        modes = {each.arg for each in scope.args.args}
        bound = list(bindings(scope)).count(given.id)
        return scope.name == "train" and given.id in modes and bound == 1

    def runs_whole(self, node: ast.AST, depth: int) -> bool:
        """Whether an expression is only called, ``depth`` containers down."""
        if self.is_harmless(node):
            return True
        parent = self.parents.get(node)
        if depth == 0:
            if self.is_call(node) or self._runs_it(parent, node):
                return True
            return self._names_run_whole(parent, node, 0)
        if isinstance(parent, ast.Subscript) and parent.value is node:
            return not isinstance(parent.slice, ast.Slice) and self.runs_whole(parent, depth - 1)
        if isinstance(parent, ast.Attribute) and parent.attr in ("items", "values"):
            call = self.parents.get(parent)
            loop = self.parents.get(call) if isinstance(call, ast.Call) else None
            if not isinstance(loop, (ast.For, ast.comprehension)) or loop.iter is not call:
                return False
            target = loop.target
            if parent.attr == "items":
                if not isinstance(target, ast.Tuple) or len(target.elts) != 2:
                    return False
                target = target.elts[1]
            return self._targets_run_whole(target, depth - 1)
        if isinstance(parent, ast.Call):
            name = self.python_name(parent)
            if name == "reversed":
                return self.runs_whole(parent, depth)
            loop = self.parents.get(parent)
            if not isinstance(loop, (ast.For, ast.comprehension)) or loop.iter is not parent:
                return False
            names = loop.target.elts if isinstance(loop.target, ast.Tuple) else []
            number = [ast.Constant(0)] if name == "enumerate" else []
            given: list[ast.AST] = [*number, *parent.args]
            if name not in ("enumerate", "zip") or len(names) != len(given):
                return False
            if any(isinstance(each, ast.Starred) for each in (*names, *given)):
                return False
            return self._targets_run_whole(names[given.index(node)], depth - 1)
        if isinstance(parent, (ast.For, ast.comprehension)) and parent.iter is node:
            return self._targets_run_whole(parent.target, depth - 1)
        return self._names_run_whole(parent, node, depth)

    def _runs_it(self, call: ast.AST | None, node: ast.AST) -> bool:
        """``torch.vmap(self.net)`` and ``checkpoint(self.net, x)`` run a module whole."""
        if not isinstance(call, ast.Call) or not call.args or call.args[0] is not node:
            return False
        return runs_in_order(self.resolve(call.func))

    def _names_run_whole(self, parent: ast.AST | None, node: ast.AST, depth: int) -> bool:
        if isinstance(parent, ast.Assign) and parent.value is node:
            return all(self._targets_run_whole(target, depth) for target in parent.targets)
        return False

    def _targets_run_whole(self, target: ast.AST, depth: int) -> bool:
        if not isinstance(target, ast.Name):
            return False  # a tuple takes what it is given apart
        names = [target.id]
        scope = self.scope(target)
        if scope is None or not is_local(target.id, scope):
            return False
        uses = [
            n
            for n in ast.walk(scope)
            if isinstance(n, ast.Name) and n.id in names and isinstance(n.ctx, ast.Load)
        ]
        return all(self._is_use(use, depth) for use in uses)

    def _is_use(self, use: ast.Name, depth: int) -> bool:
        parent = self.parents.get(use)
        if isinstance(parent, ast.Assign):
            return False
        return self.runs_whole(use, depth)


def _is_within(inner: ast.AST, outer: ast.AST) -> bool:
    """Whether ``inner`` is reached from ``outer``, as ``self.head[0]`` is from ``self``."""
    whole = ast.dump(outer)
    while isinstance(inner, (ast.Attribute, ast.Subscript)):
        inner = inner.value
        if ast.dump(inner) == whole:
            return True
    return False
