"""The texts of an exported program that torch evaluates: expressions of sizes, and guards.

torch hands the first to ``sympy.sympify``, which is ``eval``, and the second to ``exec``. Here each
is parsed by a grammar of its own, and printed again from what was parsed.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator

from bnfx.archives.refused import RefusedError, shown, words

SYMBOL = re.compile(r"[a-z_]{1,12}\d{0,5}")
_LONGEST = 20_000
_DEEPEST = 40
_LARGEST = 1 << 63
_FUNCTIONS = words(
    "Add Mul Min Max Mod Abs Rational Equality Unequality GreaterThan LessThan "
    "StrictGreaterThan StrictLessThan And Or Not FloorDiv ModularIndexing Where PythonMod "
    "CleanDiv CeilToInt FloorToInt CeilDiv FloatTrueDiv IntTrueDiv TruncToFloat TruncToInt "
    "RoundToInt ToFloat Identity IsNonOverlappingAndDenseIndicator"
)
_POWERS = frozenset({"PowByNatural", "FloatPow", "LShift", "RShift", "Pow"})
_ASSUMPTIONS = frozenset(
    ["integer", "positive", "negative", "nonnegative", "nonzero", "real", "finite", "zero"]
)
_TOKEN = re.compile(r"\s*(?:([A-Za-z_]\w*)|(-?\d+)|'([^'\\]*)'|([(),=]))", re.ASCII)


def checked_expression(text: str) -> str:
    """``srepr`` of an expression of sizes: symbols, numbers, and a list of functions.

    Raises:
        RefusedError: for anything else.
    """
    if len(text) > _LONGEST:
        raise RefusedError(f"the expression {shown(text)} is too long")
    tokens = _tokens(text)
    try:
        found = _expression(tokens, next(tokens), _DEEPEST, powers=True)
        if next(tokens, None) is None:
            return found
    except (StopIteration, RuntimeError):
        pass
    raise RefusedError(f"{shown(text)} is not an expression of sizes")


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            raise RefusedError(f"{shown(text)} is not an expression of sizes")
        name, number, quoted, mark = found.groups()
        yield name or number or mark or f"'{quoted}'"
        at = found.end()


def _expression(tokens: Iterator[str], head: str, depth: int, powers: bool) -> str:
    if head in ("true", "false", "oo", "int_oo"):
        return head
    if not depth or next(tokens) != "(":
        raise RefusedError(f"{shown(head)} is not part of an expression of sizes")
    if head == "Symbol":
        return _symbol(tokens)
    if head == "Integer":
        number = _integer(next(tokens))
        _expect(tokens, ")")
        return f"Integer({number})"
    if head == "Float":
        return _float(tokens)
    if head == "Rational":
        first = _integer(next(tokens))
        _expect(tokens, ",")
        second = _integer(next(tokens))
        _expect(tokens, ")")
        return f"Rational({first}, {second})"
    if head not in _FUNCTIONS and not (head in _POWERS and powers):
        raise RefusedError(f"{shown(head)} is not a function of sizes, or its powers are nested")
    arguments: list[str] = []
    mark = ","
    while mark == ",":
        token = next(tokens)
        if token == ")" and not arguments:
            mark = token
            break
        arguments.append(_expression(tokens, token, depth - 1, powers and head not in _POWERS))
        mark = next(tokens)
    if mark != ")":
        raise RefusedError(f"{shown(mark)} stands where an expression of sizes goes on or ends")
    if head in _POWERS:
        _check_power(arguments)
    return f"{head}({', '.join(arguments)})"


def _check_power(arguments: list[str]) -> None:
    """Only small numbers as exponents: a number of 2**63 digits fits no memory."""
    exponent = re.fullmatch(r"Integer\((-?\d+)\)|Rational\(.*|Float\(.*", arguments[-1])
    if len(arguments) != 2 or not exponent or abs(int(exponent[1] or 0)) > 64:
        raise RefusedError("a power of a size has an exponent that is not allowed")


def _symbol(tokens: Iterator[str]) -> str:
    name = next(tokens)
    if not (name.startswith("'") and SYMBOL.fullmatch(name[1:-1])):
        raise RefusedError(f"{shown(name)} is not the name of a size")
    parts = [name]
    while (mark := next(tokens)) == ",":
        assumption = next(tokens)
        _expect(tokens, "=")
        value = next(tokens)
        if assumption not in _ASSUMPTIONS or value not in ("True", "False"):
            raise RefusedError(f"{shown(assumption)} is nothing to assume of a size")
        parts.append(f"{assumption}={value}")
    if mark != ")":
        raise RefusedError(f"{shown(mark)} stands where a symbol ends")
    return f"Symbol({', '.join(parts)})"


def _float(tokens: Iterator[str]) -> str:
    text = next(tokens)[1:-1]
    _expect(tokens, ",")
    _expect(tokens, "precision")
    _expect(tokens, "=")
    precision = _integer(next(tokens))
    _expect(tokens, ")")
    if not re.fullmatch(r"-?\d{1,40}(\.\d{0,40})?(e[+-]?\d{1,3})?", text) or not 0 < precision < 99:
        raise RefusedError(f"{shown(text)} is not a number")
    return f"Float('{text}', precision={precision})"


def _integer(token: str) -> int:
    if not re.fullmatch(r"-?\d{1,19}", token) or not -_LARGEST <= int(token) < _LARGEST:
        raise RefusedError(f"{shown(token)} is not a whole number of 64 bits")
    return int(token)


def _expect(tokens: Iterator[str], wanted: str) -> None:
    if (token := next(tokens)) != wanted:
        raise RefusedError(f"{shown(token)} stands where {wanted} belongs in an expression")


_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Div)
_UNARY = (ast.USub, ast.Not)
_COMPARED = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_METHODS = {"size": 0, "stride": 0, "storage_offset": 0}
_CALLED = words(
    "Min Max min max Mod PythonMod FloorDiv CeilDiv ModularIndexing Eq Ne Gt Ge Lt Le floor "
    "ceiling TruncToInt FloorToInt CeilToInt RoundToInt ToFloat IntTrueDiv FloatTrueDiv "
    "IsNonOverlappingAndDenseIndicator"
)
_KEY = re.compile(r"[\w.:/ -]{1,80}", re.ASCII)


def checked_guard(text: str) -> str:
    """A condition on sizes and strides of inputs, ``L['x'].size()[0] % 2 == 0``.

    Raises:
        RefusedError: for anything else.
    """
    try:
        if len(text) > _LONGEST or not text.isascii():
            raise ValueError
        tree = ast.parse(text, mode="eval").body
        if not _is_condition(tree):
            raise ValueError
        return ast.unparse(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise RefusedError(f"{shown(text)} is not a condition on the sizes of inputs") from None


def _is_condition(node: ast.expr) -> bool:
    """Whether every part of it is one of those that are allowed."""
    if isinstance(node, ast.BoolOp):
        return all(map(_is_condition, node.values))
    if isinstance(node, ast.Compare):
        return all(isinstance(op, _COMPARED) for op in node.ops) and all(
            map(_is_condition, [node.left, *node.comparators])
        )
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, _OPERATORS) and all(map(_is_condition, (node.left, node.right)))
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, _UNARY) and _is_condition(node.operand)
    if isinstance(node, ast.Constant):
        return _is_number(node.value)
    if isinstance(node, ast.Call):
        return not node.keywords and _is_call(node)
    if isinstance(node, ast.Subscript):  # a size, or an input that is a number
        called = isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
        return (_is_number(_constant(node.slice)) and called and _is_condition(node.value)) or (
            _is_input(node)
        )
    return False


def _is_call(node: ast.Call) -> bool:
    if isinstance(node.func, ast.Attribute):
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "math":
            allowed = node.func.attr in ("floor", "ceil", "trunc")
            return allowed and len(node.args) == 1 and _is_condition(node.args[0])
        return node.func.attr in _METHODS and not node.args and _is_input(node.func.value)
    called = isinstance(node.func, ast.Name) and node.func.id in _CALLED
    return called and all(map(_is_condition, node.args))


def _is_input(node: ast.expr) -> bool:
    """``L['x']``, ``L['x'][0]['key']``."""
    while isinstance(node, ast.Subscript):
        key = _constant(node.slice)
        if not (_KEY.fullmatch(key) if isinstance(key, str) else _is_number(key)):
            return False
        if isinstance(node.value, ast.Name):
            return node.value.id == "L" and isinstance(key, str)
        node = node.value
    return False


def _constant(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, (bool, int)) and abs(value) < _LARGEST
