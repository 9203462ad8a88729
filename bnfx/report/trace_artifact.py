"""The report in torch's structured trace (``TORCH_TRACE=folder``), where tlparse shows it.

Two artifacts for each graph, beside Dynamo's and Inductor's of the same compilation:
``bnfx_report`` is the JSON of :meth:`bnfx.Report.to_json`, ``bnfx_report_text`` text for people.
Neither is made unless a trace is written.
"""

from __future__ import annotations

import logging
import sys

from bnfx.report import Report

log = logging.getLogger("bnfx")

_WIDTH = 100  # of the text, which tlparse shows as it is


def is_tracing() -> bool:
    """Whether a trace is written."""
    return bool(logging.getLogger("torch.__trace").handlers)


def add_to_trace(report: Report) -> None:
    """Add the report to the trace, if one is written."""
    trace = getattr(sys.modules.get("torch._logging"), "trace_structured", None)
    if trace is None:  # TVM users may have no torch
        return
    payloads = {
        ("bnfx_report", "json"): report.to_json,
        ("bnfx_report_text", "string"): lambda: report.to_text(every=True, width=_WIDTH),
    }
    try:
        for (name, encoding), payload in payloads.items():
            metadata = {"name": name, "encoding": encoding}
            trace("artifact", metadata_fn=lambda of=metadata: of, payload_fn=payload)
    except Exception:  # the trace is torch's own, and of no weight to the graph
        log.debug("the trace has no report", exc_info=True)
