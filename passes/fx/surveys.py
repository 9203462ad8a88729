"""Reports of graphs that are not rewritten: what rules would do, or why all is left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import fx

from bnfx.passes import pipeline
from bnfx.passes.fx.lift import lift
from bnfx.passes.lifting.survey import abandoned, kept
from bnfx.passes.refusals import Code, Refusal
from bnfx.passes.report import GraphReport
from bnfx.passes.rules.rule import Rule


def survey_shapeless(module: fx.GraphModule, rules: Sequence[Rule]) -> GraphReport | None:
    """What ``rules`` would do by what the graph says by now. Reads no weights."""
    try:
        return pipeline.run(lift(module, {}, {}, {}).graph, rules)
    except Exception:  # whatever is broken, rewrite() meets it too, and tells the user
        return None


def survey(
    module: fx.GraphModule, parameters: Mapping[str, torch.Tensor], refusal: Refusal
) -> GraphReport:
    """A report of a graph that is left alone: every BatchNorm kept, for its own reasons or this."""
    try:
        report = pipeline.run(lift(module, parameters, {}, {}).graph, rules=())
    except Exception as error:  # the lifter is what broke: there is no list of BatchNorms to be had
        return GraphReport((), (refusal.reason, f"the graph could not be read: {error!r}"))
    sites = (
        (v.site, tuple(r for r in v.refusals if r.code is not Code.RULE_DISABLED))
        for v in report.verdicts
    )
    return kept(sites, refusal)


def given_up(
    module: fx.GraphModule, error: Exception, what: str = "the rewrite", original: str = "graph"
) -> GraphReport:
    """The report of a graph of which ``what`` raised ``error``, with a warning; for ``except``."""
    return abandoned(error, what, original, lambda why: survey(module, {}, why))
