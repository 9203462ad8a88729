"""Shapes, ranks and dtypes of Relax's types: sizes that are proved to be equal have one name."""

from __future__ import annotations

from typing import Any

import pytest
from relax.graphs import VERSION
from tvm import relax, tirx

from bnfx.passes.relax.compat import TensorType, number, tensor_types
from bnfx.passes.relax.shapes import NamedSizes, dtype_of, rank_of, sizes_of

N, OTHER_N = tirx.Var("n", "int64"), tirx.Var("n", "int64")
Pair = getattr(relax, "TupleStructInfo", None) or relax.TupleType
ShapeType = getattr(relax, "ShapeStructInfo", None) or relax.ShapeType
FIXED = TensorType((2, 3), "float32")
OPEN = TensorType((2, N), "float32")
RANKED = TensorType(dtype="float32", ndim=2)
ANY = TensorType(dtype="float32", ndim=-1)
NO_TENSOR = [None, Pair([FIXED]), ShapeType([2, 3])]
# Of each type: its sizes, rank and dtype.
KINDS = [
    (FIXED, (2, 3), 2, "float32"),
    (OPEN, (2, None), 2, "float32"),
    (TensorType((), "float16"), (), 0, "float16"),
    (RANKED, None, 2, "float32"),
    (ANY, None, None, "float32"),
    (TensorType((2, 3), ""), (2, 3), 2, None),
    *((kind, None, None, None) for kind in NO_TENSOR),
]


@pytest.mark.parametrize(("kind", "sizes", "rank", "dtype"), KINDS)
def test_types(kind: Any, sizes: Any, rank: Any, dtype: Any) -> None:
    assert (sizes_of(kind), rank_of(kind), dtype_of(kind)) == (sizes, rank, dtype)


def test_a_shape_that_is_a_value() -> None:
    """Of which nothing is known but the rank."""
    shape = relax.Var("shape", ShapeType(ndim=2))
    kind = TensorType(shape, "float32")
    assert (sizes_of(kind), rank_of(kind)) == (None, 2)


def _names(*sizes: Any) -> list[Any]:
    known: Any = NamedSizes()
    found = []
    for size in sizes:
        (name,) = known.of(None, TensorType((size,), "float32"))
        found.append(name)
    return found


def test_names_of_sizes() -> None:
    assert NamedSizes().of(None, RANKED) is None  # type: ignore[arg-type]
    assert NamedSizes().of(None, OPEN) == (2, "n")  # type: ignore[arg-type]
    assert _names(3, N, N, 4) == [3, "n", "n", 4]
    assert _names(N, OTHER_N, N, OTHER_N) == ["n", "n#1", "n", "n#1"]
    third = tirx.Var("n", "int64")
    assert _names(N, OTHER_N, third, OTHER_N, third) == ["n", "n#1", "n#2", "n#1", "n#2"]
    one, same, more = _names(N + N, 2 * N, N + 2)
    assert one == same
    assert len({"n", one, more}) == 3


def test_numbers() -> None:
    """Those that are operands; a size that is not fixed is none."""
    assert number(tirx.IntImm("int64", 3)) == 3
    assert number(tirx.FloatImm("float32", 0.5)) == 0.5
    assert number(N) is None
    assert number(relax.Var("x", FIXED)) is None
    if VERSION < (0, 26):
        assert number(relax.PrimValue(3)) == 3


def test_tensors_of_a_type() -> None:
    assert list(tensor_types(FIXED)) == [FIXED]
    assert list(tensor_types(Pair([FIXED, Pair([OPEN])]))) == [FIXED, OPEN]
    assert list(tensor_types(ShapeType([2]))) == []
    assert list(tensor_types(None)) == []
