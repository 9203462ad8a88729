"""The fastest engine for each graph, by trial: ``options={"inner": "auto"}``. ADR 033."""

from __future__ import annotations

from bnfx.inner.auto.trial import inner

__all__ = ["inner"]
