"""The syntax of plain code: what is not listed is not plain."""

from __future__ import annotations

import ast
from collections.abc import Iterator

NODES: tuple[type[ast.AST], ...] = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr)
NODES += (ast.Return, ast.Pass, ast.If, ast.For, ast.Raise, ast.Assert, ast.Break, ast.Continue)
NODES += (ast.With, ast.withitem, ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Call)
NODES += (ast.Starred, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Slice)
NODES += (ast.Tuple, ast.List, ast.Dict, ast.ListComp, ast.GeneratorExp, ast.JoinedStr)
NODES += (ast.FormattedValue, ast.comprehension, ast.keyword, ast.expr_context)
NODES += (ast.operator, ast.unaryop, ast.boolop, ast.cmpop)


def is_call_of_super(node: ast.expr) -> bool:
    """``super()``, with arguments or without."""
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "super"


def wraps(decorator: ast.expr) -> bool:
    """Whether it does more than tell Python or TorchScript something."""
    return not ast.unparse(decorator).startswith(("torch.jit.", "staticmethod"))


def nodes_of(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """All but annotations."""
    stack: list[ast.AST] = list(body)
    while stack:
        node = stack.pop()
        yield node
        for name, value in ast.iter_fields(node):
            if name != "annotation":
                values = value if isinstance(value, list) else [value]
                stack.extend(each for each in values if isinstance(each, ast.AST))
