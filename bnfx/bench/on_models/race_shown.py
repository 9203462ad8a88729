"""A comparison as a table, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnfx.bench.on_models.bench_ways import LIMIT
from bnfx.bench.on_models.model_race import Race, Row
from bnfx.report.wording import sized

_COLUMNS = ("way", "ms a call", "quartiles", "x eager", "error", "first call", "memory")
_LINE, _LEFT, _LABEL, _WIDE, _MOST = 34, 150, 175, 760, 50


def table(race: Race, width: int | None = None) -> str:
    """What was measured, the noise, and what failed or was left out."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(f"{race.source}, {race.device}"))
    for column in _COLUMNS:
        found.add_column(column, justify="left" if column == "way" else "right", no_wrap=True)
    for row in race.rows:
        found.add_row(*_cells(row))
    console = Console(width=width or 100, color_system=None, highlight=False, legacy_windows=False)
    with console.capture() as captured:
        console.print(found)
    lines = [line.rstrip() for line in captured.get().splitlines() if line.strip()]
    return "\n".join([*lines, "", *_sentences(race)])


def _cells(row: Row) -> tuple[str, ...]:
    if math.isnan(row.ms):
        return (row.way, "failed", "", "", "", "", "")
    error = f"{row.error:.0e}" + (" WRONG" if row.is_wrong else "")
    quartiles = f"{row.low:.2f}-{row.high:.2f}"
    first = f"{row.first_s:.1f} s"
    ratio = "" if math.isnan(row.over_eager) else f"{row.over_eager:.2f}"
    memory = f"+{sized(row.memory)}"
    return (row.way, f"{row.ms:.2f}", quartiles, ratio, error, first, memory)


def _threads(race: Race) -> str:
    return f"{race.threads} thread{'s' * (race.threads != 1)}"


def _sentences(race: Race) -> Iterator[str]:
    inputs = ", ".join(race.shapes)
    yield f"Inputs {inputs}; float32, {_threads(race)}; errors against the model in float64."
    yield race.noise_in_words()
    for row in race.rows:
        if row.note:
            yield f"{row.way}: {row.note}"
    yield from race.left_out


def picture(race: Race) -> str:
    """Bars with quartiles, as SVG; shorter is faster, and what is wrong or failed is marked."""
    longest = max((row.high for row in race.rows if not math.isnan(row.ms)), default=1.0)
    scale = (_WIDE - _LEFT - _LABEL) / longest
    captions = list(_captions(race))
    foot = 46 + _LINE * len(race.rows)
    tall = foot + 20 * len(captions) + 4
    source = race.source if len(race.source) <= _MOST else f"…{race.source[1 - _MOST :]}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {tall}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="14" '
        f'aria-label="Milliseconds a call of {escape(race.source)}">',
        f'<rect width="{_WIDE}" height="{tall}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-weight="600">{escape(source)}: milliseconds a call, '
        f"{escape(race.device)}, {_threads(race)}</text>",
    ]
    for at, row in enumerate(race.rows):
        parts += _bar(row, 40 + at * _LINE, scale)
    for at, caption in enumerate(captions):
        place = f'x="12" y="{foot + 12 + 20 * at}" font-size="12" fill="#4a5158"'
        parts.append(f"<text {place}>{escape(caption)}</text>")
    return "\n".join([*parts, "</svg>", ""])


def _captions(race: Race) -> Iterator[str]:
    """What the bars are, and how much they say."""
    shapes = ", ".join(race.shapes)
    yield f"Inputs {shapes}. Bars: medians, with quartiles; in brackets, times as fast as eager."
    if any(row.way == LIMIT for row in race.rows):
        yield f"{LIMIT}: the model without BatchNorms, what a fold can reach at best."
    yield from race.noise_in_words().split(": use a ")[:1]


def _bar(row: Row, top: int, scale: float) -> Iterator[str]:
    colour = "#c2273a" if row.is_wrong else "#1f5fbf" if row.way.startswith("bnfx") else "#9aa2aa"
    if row.way == LIMIT:
        colour = "#d5d9dd"
    middle = top + 11
    yield f'<text x="{_LEFT - 8}" y="{middle + 5}" text-anchor="end">{escape(row.way)}</text>'
    if math.isnan(row.ms):
        yield f'<text x="{_LEFT}" y="{middle + 5}" fill="#c2273a">failed</text>'
        return
    end, low, high = (_LEFT + scale * ms for ms in (row.ms, row.low, row.high))
    width = max(end - _LEFT, 1)
    yield f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="22" rx="3" fill="{colour}"/>'
    yield (
        f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 5}v10M{high:.1f} '
        f'{middle - 5}v10" stroke="#1c2024" fill="none"/>'
    )
    wrong = " WRONG" if row.is_wrong else ""
    ratio = "" if math.isnan(row.over_eager) else f" ({row.over_eager:.2f}x)"
    words = f"{row.ms:.2f}{ratio}{wrong}"
    yield f'<text x="{max(end, high) + 8:.1f}" y="{middle + 5}">{words}</text>'
