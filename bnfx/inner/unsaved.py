"""What torch's ahead-of-time compilation is told of a graph whose weights are never stale."""

from __future__ import annotations

from typing import Any

from bnfx.errors import BnfxError
from bnfx.torch_private import SerializableCallable


class Unsaved(SerializableCallable):
    """A callable that ``aot_compile`` takes, and that cannot be saved.

    Raises:
        BnfxError: when it is saved, or read.
    """

    @classmethod
    def serialize_compile_artifacts(cls, fn: Any) -> bytes:
        raise BnfxError(
            "a graph compiled with bnfx follows the weights of the model in memory, and cannot be "
            "saved; it can be called in this process. To save the model compiled, use "
            "bnfx.export.compile_package; to save it folded, bnfx.fold(torch.export.export(...))"
        )

    @classmethod
    def deserialize_compile_artifacts(cls, data: bytes) -> Any:
        return cls.serialize_compile_artifacts(None)

    def __call__(self, *args: Any) -> Any:
        raise NotImplementedError
