"""OpenVINO as the inner compiler: ``options={"inner": "openvino"}``. ADR 028.

An ATen operator goes to OpenVINO by a row of a table (:mod:`bnfx.inner.engines`); what no row takes
is refused, and the graph goes to Inductor. All numbers are float32.
"""

from __future__ import annotations

from bnfx.inner.openvino.session import inner

__all__ = ["inner"]
