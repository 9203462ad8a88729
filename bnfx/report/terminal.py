"""A report as text for people: first the counts and what they mean, then only the exceptions."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bnfx.passes.refusals import MEANINGS, Code, Refusal
from bnfx.passes.report import Outcome, Verdict
from bnfx.report.wording import counted, sized

_KINDS = {"batch_norm": "BatchNorm", "affine": "affine op"}
_EARLIER = {"multiply_add": "multiply-add", "border": "border addition"}  # of an earlier fold
_NARROWEST = 40
_Lines = list[tuple[int, str]]  # depth and text


def render(
    verdicts: Sequence[Verdict],
    weights: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    *,
    every: bool = False,
    width: int | None = None,
    weight_bytes: tuple[int, int] = (0, 0),
) -> str:
    """The report as text.

    Args:
        verdicts: one for each site, in the order in which the model runs.
        weights: how compiled graphs get their folded weights, and why.
        notes: what else a user should know.
        every: whether each site has a row; otherwise BatchNorms that were left for reasons with the
            same codes share one row, with the first of them as the example.
        width: the width of a line; the terminal's if ``None`` (80 without a terminal). Names are
            not broken.
        weight_bytes: of constants, before and after.
    """
    head: _Lines = [(0, line) for line in sentences(verdicts, weight_bytes)]
    blocks = [head, *(_rows(verdicts) if every else _exceptions(verdicts))]
    blocks.append([(0, f"weights: {form} ({reason})") for form, reason in weights])
    blocks.append([(0, f"note: {note}") for note in notes])
    width = max(width or shutil.get_terminal_size().columns, _NARROWEST)
    texts = ["\n".join(_wrapped(depth, line, width) for depth, line in block) for block in blocks]
    return "\n\n".join(filter(None, texts))


def sentences(verdicts: Sequence[Verdict], weight_bytes: tuple[int, int]) -> list[str]:
    """The counts and what they mean, a sentence each."""
    return [*_counts(verdicts), *_meaning(verdicts), *_growth(*weight_bytes)]


def _wrapped(depth: int, line: str, width: int) -> str:
    lead = "  " * depth
    lines = textwrap.wrap(
        line,
        width,
        initial_indent=lead,
        subsequent_indent=lead + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)


def _counts(verdicts: Sequence[Verdict]) -> Iterator[str]:
    if not verdicts:
        yield "no BatchNorm in the graph"
    elif all(verdict.site.kind in _EARLIER for verdict in verdicts):
        yield "no BatchNorm is left in the graph"
    for kind, name in _KINDS.items():
        some = [verdict for verdict in verdicts if verdict.site.kind == kind]
        counts = ((outcome, _count(some, outcome)) for outcome in Outcome)
        parts = ", ".join(f"{count} {outcome.value}" for outcome, count in counts if count)
        if some:
            yield f"{counted(len(some), name)}: {parts}"


def _meaning(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """The counts in words, and whether anything is left to do."""
    norms = [verdict for verdict in verdicts if verdict.site.kind == "batch_norm"]
    if left := [verdict for verdict in verdicts if verdict.site.kind in _EARLIER]:
        kinds = Counter(_EARLIER[verdict.site.kind] for verdict in left)
        what = " and ".join(counted(count, kind) for kind, count in kinds.items())
        folds = sum(verdict.outcome is not Outcome.KEPT for verdict in left)
        rest = f"{folds} of them fold{'s' * (folds == 1)} now" if folds else "nothing to do"
        yield f"An earlier fold left {what}: {rest}."
    kept, lowered = _count(norms, Outcome.KEPT), _count(norms, Outcome.LOWERED)
    lacking = any(
        verdict.outcome is Outcome.LOWERED and _lacks_inputs(verdict) for verdict in norms
    )
    done = "" if kept or lacking else ": nothing to do"
    if lowered:
        each = " each" if lowered > 1 else ""
        yield f"{lowered} became one multiply-add{each}, which compilers fuse{done}."
    elif norms and not kept and not _count(norms, Outcome.SYNCHRONISED):
        yield f"No BatchNorm is left{done}."
    if kept:
        yield f"{kept} {'is' if kept == 1 else 'are'} left as in the model; below is why."
    errors = [verdict.error for verdict in verdicts if verdict.error is not None]
    if errors:
        yield f"Storing the folded numbers changes them by at most {max(errors):.0e} of a channel."


def _growth(before: int, after: int) -> Iterator[str]:
    """The constants that folds add; most folds take some away, which is no news."""
    if after > before:
        yield (
            f"The constants grow by {sized(after - before)}, from {sized(before)} to "
            f"{sized(after)}: borders of zero padding, or copies of shared weights, are stored."
        )


def _exceptions(verdicts: Sequence[Verdict]) -> Iterator[_Lines]:
    """A block for the BatchNorms left for reasons with the same codes; kept ones first."""
    groups: dict[tuple[Outcome, frozenset[Code]], _Group] = {}
    for verdict in verdicts:
        if verdict.site.kind == "batch_norm" and verdict.outcome in (Outcome.LOWERED, Outcome.KEPT):
            codes = frozenset(refusal.code for refusal in _telling(verdict))
            groups.setdefault((verdict.outcome, codes), _Group(verdict)).size += 1
    for group in sorted(
        groups.values(), key=lambda group: group.example.outcome is not Outcome.KEPT
    ):
        head = f"{group.size} {group.example.outcome.value}: {_where(group.example)}"
        if group.size > 1:
            head += f" and {counted(group.size - 1, 'other')} like it"
        yield [(0, head), *_reasons(group.example, once=True), *_advice(group.example)]


@dataclass
class _Group:
    example: Verdict
    size: int = 0


def _rows(verdicts: Sequence[Verdict]) -> Iterator[_Lines]:
    """All verdicts in one block, each with all its reasons."""
    rows: _Lines = []
    for verdict in verdicts:
        head = f"{_where(verdict)}: {verdict.outcome.value}"
        if verdict.target:
            head += f" into {verdict.target}"
        if verdict.error is not None:
            head += f" ({verdict.error:.0e})"
        rows += [(0, head), *_reasons(verdict, once=False), *_advice(verdict)]
    yield rows


def _where(verdict: Verdict) -> str:
    """The name; for what is left as in the model, also the line of code."""
    name, location = verdict.site.name, verdict.site.location
    if not location or verdict.outcome is not Outcome.KEPT:
        return name
    return f"{name} ({location.rpartition('/site-packages/')[2]})"


def _reasons(verdict: Verdict, *, once: bool) -> Iterator[tuple[int, str]]:
    """The reasons, one per line; with ``once``, only the first for each code."""
    told: dict[Code, list[Refusal]] = {}
    for refusal in _telling(verdict):
        told.setdefault(refusal.code, []).append(refusal)
    for first, *others in told.values():
        yield 1, f"{first} (and {len(others)} more like it)" if once and others else str(first)
        if not once:
            yield from ((1, str(refusal)) for refusal in others)


def _telling(verdict: Verdict) -> Sequence[Refusal]:
    """The reasons worth showing: in training mode, all others follow from that one."""
    training = [refusal for refusal in verdict.refusals if refusal.code is Code.TRAINING_MODE]
    return training[:1] or verdict.refusals


def _advice(verdict: Verdict) -> Iterator[tuple[int, str]]:
    """What to do, where following it changes something."""
    remedies = dict.fromkeys(MEANINGS[refusal.code].remedy for refusal in _telling(verdict))
    helpful = [remedy for remedy in remedies if not remedy.startswith("None")]
    if verdict.outcome is Outcome.KEPT or len(helpful) == len(remedies):
        yield from ((1, f"What to do: {remedy}") for remedy in helpful)
    elif _lacks_inputs(verdict):
        yield 1, f"What to do: {MEANINGS[Code.UNKNOWN_RANK].remedy}"


def _lacks_inputs(verdict: Verdict) -> bool:
    """Whether example inputs may fold it."""
    return any(refusal.code is Code.UNKNOWN_RANK for refusal in verdict.refusals)


def _count(verdicts: Sequence[Verdict], outcome: Outcome) -> int:
    return sum(verdict.outcome is outcome for verdict in verdicts)
