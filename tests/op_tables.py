"""Counts the tables of op names that a folder keeps by hand: ``python tests/op_tables.py FOLDER``.

A table is an assignment or a membership test whose set, dict, list, tuple or string of words names
at least two of torch's ops, modules or methods.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

_ROOTS = {"torch", "F", "aten", "operator", "nn", "builtins", "conv", "pooling", "batchnorm"}
_HOMES = (torch.Tensor, torch, F, nn, torch.ops.aten)
_NO_OPS = {"input", "weight", "bias", "dim", "T"}  # arguments, and what types are called


def _names(node: ast.AST) -> Iterator[str]:
    """The ops that an expression names, but not those it calls."""
    if isinstance(node, ast.Attribute):
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id in _ROOTS:
            yield ast.unparse(node)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        words = node.value.split()
        known = [word for word in words if word.isidentifier() and word not in _NO_OPS]
        known = [word for word in known if any(hasattr(home, word) for home in _HOMES)]
        if known and len(known) > len(words) // 2:
            yield from known
    elif isinstance(node, ast.Dict):
        for key in node.keys:
            if key is not None:
                yield from _names(key)
    elif isinstance(node, (ast.Set, ast.List, ast.Tuple)):
        for each in node.elts:
            yield from _names(each)
    elif isinstance(node, ast.DictComp):
        yield from _names(node.generators[0].iter)
    elif isinstance(node, (ast.BinOp, ast.Call, ast.Starred)):
        for child in ast.iter_child_nodes(node):
            if not (isinstance(node, ast.Call) and child is node.func):
                yield from _names(child)


def tables(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line and the ops of each table in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        value: ast.expr | None = None
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            value = node.value
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            value = node.comparators[0]
        names = [] if value is None or isinstance(value, ast.Attribute) else list(_names(value))
        if value is not None and len(set(names)) >= 2:
            yield node.lineno, names


def main(folder: str) -> None:
    count = entries = 0
    for path in sorted(Path(folder).rglob("*.py")):
        for line, names in tables(path):
            count, entries = count + 1, entries + len(names)
            print(f"{path}:{line}: {len(names)} ops, {' '.join(sorted(set(names)))[:60]}")
    print(f"{count} tables, {entries} entries")


if __name__ == "__main__":
    main(sys.argv[1])
