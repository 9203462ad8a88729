"""Reports of what is left alone, in every IR: each BatchNorm is kept, and the reason is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from bnfx.passes import pipeline
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import GraphReport, Outcome, Site, Verdict


def kept(sites: Iterable[tuple[Site, tuple[Refusal, ...]]], refusal: Refusal) -> GraphReport:
    """A report in which every site is kept.

    Args:
        sites: each with reasons of its own.
        refusal: why the graph as a whole is left alone.
    """
    verdicts = (
        Verdict(site, Outcome.KEPT, refusals=(refusal, *refusals)) for site, refusals in sites
    )
    return GraphReport(tuple(verdicts))


def abandoned(
    error: Exception, what: str, original: str, survey: Callable[[Refusal], GraphReport]
) -> GraphReport:
    """The report of a graph that could not be rewritten, with a warning; call it in ``except``.

    Args:
        what, original: see :func:`~bnfx.passes.pipeline.warn_of_failure`.
        survey: the report of the graph, left alone for a reason.
    """
    message = pipeline.warn_of_failure(error, what, original)
    try:
        report = survey(Refusal(Code.INTERNAL_ERROR, message))
    except Exception as unread:  # what could not be read cannot be surveyed either
        report = GraphReport(notes=(f"the {original} could not be read: {unread!r}",))
    return replace(report, notes=tuple(dict.fromkeys((message, *report.notes))))
