"""ONNX Runtime as the inner compiler: bnfx's own ONNX graph, in memory, its weights constants."""

from __future__ import annotations

from bnfx.inner.onnxruntime.onnx_session import inner

__all__ = ["inner"]
