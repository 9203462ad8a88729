"""The numbers of expressions, in the dtypes that they are stored in."""

from __future__ import annotations

from collections.abc import Collection

from bnfx.passes.algebra.expressions.evaluate import Array
from bnfx.passes.algebra.expressions.expression import Expression


class StoredArrays:
    """Keeps an array until nothing stands for it, so that a chain of folds takes the room of one
    weight.
    """

    def __init__(self) -> None:
        self._arrays: dict[Expression, dict[str, Array]] = {}
        self._standing: dict[object, Collection[Expression | None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._arrays.values()))

    def get(self, expression: Expression, dtype: str) -> Array | None:
        return self._arrays.get(expression, {}).get(dtype)

    def add(self, expression: Expression, dtype: str, array: Array) -> Array:
        """Keep ``array``, and hand it back."""
        self._arrays.setdefault(expression, {})[dtype] = array
        return array

    def put(self, place: object, expressions: Collection[Expression | None]) -> None:
        """Take note that ``expressions`` stand at ``place`` in the stead of those before, of which
        no array is kept any longer: one that stands elsewhere too is computed anew.
        """
        for before in self._standing.pop(place, ()):
            if before is not None and before not in expressions:
                self._arrays.pop(before, None)
        if expressions:
            self._standing[place] = expressions

    def keep_only(self, expressions: Collection[Expression | None]) -> None:
        self._arrays = {e: arrays for e, arrays in self._arrays.items() if e in expressions}
        self._standing.clear()
