"""The results of ``python -m bnfx.bench.gpu`` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOT_MEASURED = "not measured"


def markdown(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """All tables: the machine, the tests, speed, training.

    Args:
        results: kind of row -> the rows.
    """
    parts = []
    for row in results["machine"]:
        facts = [f"{key} {value}" for key, value in row.items() if key not in ("kind", "name")]
        parts.append("; ".join(facts) + ".")
    parts += [_tests(results["test"]), _speed(results["speed"]), _training(results["training"])]
    return "\n\n".join(parts) + "\n"


def _tests(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return f"Tests: {NOT_MEASURED}."
    outcomes = [row["outcome"] for row in rows]
    counts = [f"{outcomes.count(each)} {each}" for each in dict.fromkeys(outcomes)]
    bad = [
        (row["name"], row["outcome"], row.get("why", ""))
        for row in rows
        if row["outcome"] != "passed"
    ]
    said = f"Tests: {', '.join(counts)}."
    return f"{said}\n\n{_table(['test', 'outcome', 'why'], bad)}" if bad else said


def _speed(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return f"Speed: {NOT_MEASURED}."
    # What failed to compile has no time, and a column all the same.
    ways = list(dict.fromkeys(way for row in rows for way in (*row["ms"], *row["failed"])))
    head = (
        "Milliseconds a call, queued, median; in brackets: a call that is waited for. "
        "Error: the largest, relative to float64, of any way; eager's in brackets."
    )
    lines = [
        (row["name"], *(_cell(row, way) for way in ways), _errors(row["errors"])) for row in rows
    ]
    failed = [(row["name"], way, why) for row in rows for way, why in row["failed"].items()]
    tables = [head, _table(["model", *ways, "error"], lines)]
    if failed:
        tables.append(_table(["model", "failed", "why"], failed))
    return "\n\n".join(tables)


def _cell(row: Mapping[str, Any], way: str) -> str:
    if way in row["failed"]:
        return "failed"
    if way not in row["ms"]:
        return NOT_MEASURED
    return f"{row['ms'][way]:.3g} ({row['waited_ms'][way]:.3g})"


def _errors(errors: Mapping[str, float]) -> str:
    return f"{max(errors.values()):.1e} ({errors['eager']:.1e})" if errors else NOT_MEASURED


def _training(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return f"A fine-tuning step with frozen statistics: {NOT_MEASURED}."
    lines = [
        (
            row["name"],
            f"{row['ms']:.3g}" if "ms" in row else "failed",
            NOT_MEASURED if row.get("peak_mib") is None else f"{row['peak_mib']:.0f}",
            row.get("why", ""),
        )
        for row in rows
    ]
    head = "A fine-tuning step with frozen statistics: milliseconds, and MiB at the peak."
    return f"{head}\n\n{_table(['model', 'ms', 'peak MiB', 'why it failed'], lines)}"


def _table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
        for row in rows
    )
