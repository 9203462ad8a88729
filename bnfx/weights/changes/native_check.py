"""The look at a set of parameters, in C++ (``bnfx/native/check.cpp``).

Python's, in :mod:`bnfx.weights.changes.snapshot`, is what it is tested against, and what does its
work as long as it isn't there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bnfx.weights.changes.content import Content

_NO_VERSION = -1


@dataclass(frozen=True, eq=False)
class NativeCheck:
    """What one snapshot saw.

    Args:
        check: the C++ object: ``is_of(tensors)``, and ``still_holds()`` but for the rest.
        content: keeps the memory alive that ``check`` reads, and compares the rest.
    """

    check: Any
    content: Content

    @staticmethod
    def of(
        kind: Any,
        tensors: tuple[torch.Tensor, ...],
        addresses: Sequence[int],
        versions: Sequence[int | None],
        content: Content,
    ) -> NativeCheck:
        """The check of these tensors.

        Args:
            kind: the class ``Check`` of the library.
            tensors: must outlive it, which their snapshot sees to.
            versions: ``None`` for tensors that count none.
        """
        signs = [
            (address, _NO_VERSION if version is None else version)
            for address, version in zip(addresses, versions, strict=True)
        ]
        return NativeCheck(kind(tensors, signs, *content.pieces()), content)

    def is_of(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether these, in a tuple or list, are the very tensors."""
        same: bool = self.check.is_of(tensors)
        return same

    def still_holds(self) -> bool:
        """Whether addresses, versions and content are as they were."""
        same: bool = self.check.still_holds()
        return same and (not self.content.has_rest or self.content.rest_is_same())
