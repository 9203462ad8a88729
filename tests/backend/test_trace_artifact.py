"""The report in the structured trace that ``TORCH_TRACE`` asks for, and nowhere else."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._logging._internal import trace_log

import bnfx

CODE = """
import torch
from torch import nn

class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
        self.second = nn.BatchNorm2d(5)

    def forward(self, x):
        x = self.first(x)
        torch._dynamo.graph_break()
        return self.second(x.sin())

compiled = torch.compile(Broken().eval(), backend="bnfx", options={"inner": "eager"})
with torch.no_grad():
    compiled(torch.ones(1, 3, 4, 4))
"""


def artifacts(folder: Path) -> list[tuple[dict[str, Any], str]]:
    """Each record of an artifact in a trace, with its payload: as tlparse reads the file."""
    found = []
    (log,) = folder.glob("*.log")
    lines = log.read_text().splitlines()
    for at, line in enumerate(lines):
        if not line.startswith("V"):
            continue
        record = json.loads(line[line.index("] {") + 2 :])
        if not record.get("artifact", {}).get("name", "").startswith("bnfx_report"):
            continue
        payload = []
        for rest in lines[at + 1 :]:
            if not rest.startswith("\t"):
                break
            payload.append(rest[1:])
        found.append((record, "\n".join(payload)))
    return found


@pytest.mark.slow
def test_the_trace_has_the_report_of_each_graph(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "TORCH_TRACE": str(tmp_path)},
        check=True,
        capture_output=True,
    )
    found = artifacts(tmp_path)
    kinds = [(record["artifact"]["name"], record["artifact"]["encoding"]) for record, _ in found]
    assert kinds == [("bnfx_report", "json"), ("bnfx_report_text", "string")] * 2
    for record, payload in found:
        assert record["has_payload"] == hashlib.md5(payload.encode()).hexdigest()
        assert isinstance(record["frame_id"], int)  # of the compilation that it belongs to
        assert isinstance(record["frame_compile_id"], int)
    first, second = (json.loads(payload) for _, payload in found[::2])
    assert first["summary"]["folded"] == 1
    assert [verdict["outcome"] for verdict in second["graphs"][0]["verdicts"]] == ["lowered"]
    assert found[0][0]["frame_id"] != found[2][0]["frame_id"]
    assert "1 BatchNorm: 1 folded" in found[1][1]


@pytest.mark.parametrize(("handlers", "expected"), [([], []), (["one"], ["json", "text"])])
def test_the_report_is_written_out_for_a_trace_only(
    monkeypatch: pytest.MonkeyPatch, handlers: list[str], expected: list[str]
) -> None:
    """Text and JSON of a large model's report take longer than a fold."""
    monkeypatch.setattr(trace_log, "handlers", [logging.NullHandler() for _ in handlers])
    written: list[str] = []
    monkeypatch.setattr(bnfx.Report, "to_json", lambda self: written.append("json") or "")
    monkeypatch.setattr(bnfx.Report, "to_text", lambda self, **_: written.append("text") or "")
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)).eval()
    reports: list[bnfx.Report] = []
    options = {"inner": "eager", "report": reports.append}
    with torch.no_grad():
        torch.compile(model, backend="bnfx", options=options)(torch.ones(1, 3, 4, 4))
    assert len(reports) == 1
    assert written == expected
