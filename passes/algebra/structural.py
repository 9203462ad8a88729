"""Equality, hash and text of trees that may be deeper than Python recurses."""

from __future__ import annotations

from functools import cached_property


class Structural:
    """An inner node of an immutable tree: equal to another one of its class on equal children.

    All take time linear in the number of *different* nodes. Leaves are any other hashable values.
    """

    @property
    def children(self) -> tuple[object, ...]:
        """What the node stands above, in order."""
        return ()

    @property
    def attributes(self) -> tuple[object, ...]:
        """What tells this node from another one of its class on the same children."""
        return ()

    @cached_property
    def _hash(self) -> int:
        return hash((type(self), self.attributes, self.children))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structural) and _same(self, other)

    def __repr__(self) -> str:
        return written(self)


def _same(one: object, other: object) -> bool:
    """Whether two trees are equal; a pair that was compared once is not again."""
    seen: set[tuple[int, int]] = set()
    stack = [(one, other)]
    while stack:
        left, right = stack.pop()
        if left is right or (id(left), id(right)) in seen:
            continue
        seen.add((id(left), id(right)))
        if not isinstance(left, Structural) or not isinstance(right, Structural):
            if left != right:
                return False
            continue
        if type(left) is not type(right) or left._hash != right._hash:
            return False
        if left.attributes != right.attributes or len(left.children) != len(right.children):
            return False
        stack.extend(zip(left.children, right.children, strict=True))
    return True


def written(tree: object, limit: int = 200) -> str:
    """The tree as text, such as ``Elementwise(Source(...), Scalar(...), multiply)``.

    Args:
        limit: of words. What comes after is left out: a deep tree would take pages, and one that
            shares its parts exponentially many.
    """
    words: list[str] = []
    stack: list[object] = [tree]
    while stack and len(words) < limit:
        current = stack.pop()
        if isinstance(current, Structural):
            rest = [each for child in current.children for each in (", ", child)][1:]
            told = "".join(f", {each}" for each in current.attributes)
            stack += [f"{told})", *reversed(rest), f"{type(current).__name__}("]
        else:
            words.append(current if isinstance(current, str) else repr(current))
    return "".join(words) + ("..." if stack else "")
