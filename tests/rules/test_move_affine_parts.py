"""The way back into a value of which readers see parts: what each of their guards is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from neutral import Model
from rules.move_cases import codes_back, conv, finish, moved

from bnfx.passes.crossing import Chain, Reshape, Select
from bnfx.passes.graph import Opaque
from bnfx.passes.refusals import Code

EIGHT = np.arange(1.0, 9).reshape(1, 8)


def test_refuses_a_part_that_anything_else_sees(model: Model) -> None:
    start = conv(model)
    norm = finish(model, model.norm("norm", model.move("part", Select(1, 0, 2), start, 4, 2, 4, 4)))
    model.like("also", Opaque(), start)
    assert codes_back(model, norm) == [Code.OTHER_READERS]


def test_refuses_parts_of_which_another_reader_sees_one(model: Model) -> None:
    start = conv(model)
    parts = [model.move(f"part{at}", Select(1, at, at + 1), start, 4, 1, 4, 4) for at in range(2)]
    norm = finish(model, model.norm("norm", model.concat("cat", 1, *parts)))
    finish(model, model.move("also", Select(1, 1, 3), start, 4, 2, 4, 4))
    assert codes_back(model, norm) == [Code.OTHER_READERS]


def test_refuses_parts_that_overlap_though_one_map_wants_both(model: Model) -> None:
    """It would be carried out twice where they do."""
    start = conv(model)
    parts = [model.move(f"part{at}", Select(1, at, at + 3), start, 4, 3, 4, 4) for at in range(2)]
    norm = finish(model, model.norm("norm", model.concat("cat", 1, *parts)))
    assert codes_back(model, norm)[0] is Code.OTHER_READERS


@pytest.mark.parametrize(("scale", "shift"), [(EIGHT, EIGHT), (EIGHT, 0.0), (1.0, EIGHT)])
def test_refuses_rows_that_want_unlike_maps(model: Model, scale: Any, shift: Any) -> None:
    """The upper rows become the first channels, and the lower ones the last."""
    start = conv(model)
    rows = [model.move(f"rows{at}", Select(2, at, at + 2), start, 4, 4, 2, 4) for at in (0, 2)]
    node = finish(model, model.arithmetic("map", model.concat("cat", 1, *rows), scale, shift))
    assert codes_back(model, node) == [Code.AXIS_MISMATCH]


def test_refuses_parts_along_two_axes(model: Model) -> None:
    """They have positions in common."""
    start = conv(model)
    one = model.move("one", Select(2, 0, 2), start, 4, 4, 2, 4)
    other = model.move("other", Select(3, 0, 2), start, 4, 4, 4, 2)
    same = model.move("same", Reshape(), other, 4, 4, 2, 4)
    node = finish(model, model.arithmetic("map", model.concat("cat", 1, one, same), 2.0, 1.0))
    assert codes_back(model, node) == [Code.OTHER_READERS]


def test_the_one_sample_that_is_read_lets_all_change(model: Model) -> None:
    """Its channels are axis 0, and those of the whole axis 1."""
    sample = model.move("sample", Select(0, 1, 2, keep=False), conv(model), 4, 4, 4)
    finish(model, model.batch_norm("norm", sample, 4, 0, rank=3, shape=(4, 4, 4)))
    moved(model)


def test_a_sample_that_joins_the_whole_wants_the_same_map(model: Model) -> None:
    start = conv(model)
    sample = model.move("sample", Select(0, 1, 2, keep=False), start, 4, 4, 4)
    again = model.move("again", Reshape(), sample, 1, 4, 4, 4)
    finish(model, model.norm("norm", model.concat("cat", 0, start, again)))
    moved(model)


@pytest.mark.parametrize("alone", [True, False])
def test_a_corner_that_is_read_alone_lets_the_whole_change(model: Model, alone: bool) -> None:
    """Of two, each wants the other one left as it is."""
    start = conv(model)
    corners = []
    for at in (0, 2) if not alone else (0,):
        rows, columns = (Select(2, at, at + 2), (4, 4, 2, 4)), (Select(3, 0, 2), (4, 4, 2, 2))
        corners.append(model.move(f"corner{at}", Chain((rows, columns)), start, 4, 4, 2, 2))
    norm = finish(model, model.norm("norm", model.concat("cat", 0, *corners)))
    if alone:
        moved(model)
    else:
        assert Code.OTHER_READERS in codes_back(model, norm)
