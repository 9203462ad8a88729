"""The nesting of a program's inputs and outputs: tuples, lists and dictionaries.

torch's reader imports a module for an enumeration or a defaultdict in it, and writes keys into code
that it runs.
"""

from __future__ import annotations

import json
import re
from typing import Any

from bnfx.archives.refused import RefusedError, shown

_KEY = re.compile(r"[\w.:/ -]{1,80}", re.ASCII)
_SEQUENCES = ("builtins.tuple", "builtins.list")
_MAPPINGS = ("builtins.dict", "collections.OrderedDict")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_DEEPEST = 50


def checked_tree(text: str) -> str:
    """``treespec_dumps`` of a nesting, written again.

    Raises:
        RefusedError: for what is not one of tuples, lists, dictionaries and named tuples.
    """
    if len(text) > 1 << 20:
        raise RefusedError("the nesting of its inputs is too long")
    try:
        protocol, tree = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise RefusedError(f"{shown(text)} is not a nesting of inputs") from None
    if protocol != 1:
        raise RefusedError(f"the nesting of its inputs has the version {shown(protocol)}, not 1")
    return json.dumps([1, _tree(tree, _DEEPEST)])


def _tree(tree: Any, depth: int) -> dict[str, Any]:
    if not isinstance(tree, dict) or set(tree) != {"type", "context", "children_spec"} or not depth:
        raise RefusedError(f"{shown(tree)} is not a nesting of inputs")
    kind, context, children = tree["type"], tree["context"], tree["children_spec"]
    if not isinstance(children, list):
        raise RefusedError(f"{shown(children)} is not a list of inputs")
    if kind is None:
        if context is not None or children:
            raise RefusedError(f"{shown(tree)} is not a nesting of inputs")
    elif kind in _MAPPINGS:
        context = _keys(context, len(children))
    elif kind == "collections.namedtuple":
        # The class is looked up among those that the process has registered, and not imported.
        if not isinstance(context, str) or not _CLASS.fullmatch(context.strip('"')):
            raise RefusedError(f"{shown(context)} is not a named tuple")
    elif kind not in _SEQUENCES or context != "null":
        raise RefusedError(f"inputs in a {shown(kind)} are not allowed")
    return {
        "type": kind,
        "context": context,
        "children_spec": [_tree(child, depth - 1) for child in children],
    }


def _keys(context: Any, count: int) -> str:
    keys = json.loads(context) if isinstance(context, str) else None
    if not isinstance(keys, list) or len(keys) != count or not all(map(is_key, keys)):
        raise RefusedError(f"{shown(context)} are not keys of inputs")
    return json.dumps(keys)


def is_key(key: object) -> bool:
    """Whether it may be the key of an input: it is written into code."""
    return type(key) is int or (isinstance(key, str) and bool(_KEY.fullmatch(key)))
