"""Of the notes on a node that users write, only the marks of a fold are read."""

from __future__ import annotations

import json

import pytest

from bnfx.archives.program_leaves import metadata
from bnfx.passes.fx.lowering.marks import Mark


@pytest.mark.parametrize("mark", Mark)
def test_marks_are_kept(mark: Mark) -> None:
    note = json.dumps({"bnfx": mark.value})
    assert metadata({"custom": note}) == {"custom": note}


@pytest.mark.parametrize(
    "note",
    [
        json.dumps({"bnfx": "other"}),
        json.dumps({"bnfx": "border", "more": 1}),
        json.dumps(["border"]),
        "{",
        {"bnfx": "border"},
        ["border"],
        None,
        7,
    ],
)
def test_all_else_is_dropped(note: object) -> None:
    assert metadata({"custom": note}) == {}
