"""``keep="module"``: folds carried out on a copy of the user's own modules.

The algebra is that of the graph, on chains of modules of which it is proved
(:mod:`bnfx.folding.modules.succession`) that each one's result goes to the next, always and nowhere
else. So a fold is right whatever else the model does, and no graph of it is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from bnfx.errors import CaptureError
from bnfx.folding.given import ExampleInputs, check_own_forward, copied
from bnfx.folding.modules.affine_modules import is_opaque
from bnfx.folding.modules.chain import ModuleChain
from bnfx.folding.modules.seen import seen_inputs
from bnfx.folding.modules.seen_pairs import seen_pairs
from bnfx.folding.modules.succession import Pair, Places, Succession
from bnfx.folding.modules.tree import modules_of
from bnfx.passes.report import GraphReport, Outcome
from bnfx.passes.rules import fold_affine_into_linear, fold_affine_into_next_linear
from bnfx.passes.rules.rule import Rule

# The others make nodes that no module of the user's could hold, or move work between modules.
# For branches merged into one, the class is given up; for two layers in series made one, it is not.
_GRAPH_ONLY = ("merge-parallel-linear",)
_RULES = (fold_affine_into_linear.RULE, fold_affine_into_next_linear.RULE)


@dataclass
class SameClass:
    """A folded copy.

    Args:
        model: of the user's class.
        folded: the paths of the modules that are identities now.
        refused: path -> why a map that stands there could not be folded.
    """

    model: nn.Module
    folded: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def missing(self, report: GraphReport) -> list[str]:
        """Where a graph with that report folded or merged a BatchNorm that is still there.

        Arithmetic by constants, as of inputs, is no reason to give the class up.
        """
        left = self.left()
        names = [
            verdict.site.name.split(":")[0]
            for verdict in report.verdicts
            if verdict.outcome in (Outcome.FOLDED, Outcome.MERGED)
        ]
        return [name for name in left if any(n == name or n.startswith(f"{name}.") for n in names)]

    def left(self) -> list[str]:
        """The modules with running statistics that are still there."""
        return [
            path
            for path, module in modules_of(self.model)
            if isinstance(getattr(module, "running_var", None), torch.Tensor)
        ]


def graph_only(report: GraphReport) -> list[str]:
    """The rules that made something, in a graph, which no module of the user's could hold."""
    return [name for name in _GRAPH_ONLY if report.rewrites.get(name)]


def fold_modules(
    model: nn.Module, inputs: ExampleInputs, rules: Sequence[Rule], assume: str | None = None
) -> SameClass:
    """Fold on a deep copy of ``model`` what maps onto its modules.

    Args:
        model: in evaluation.
        inputs: examples, for the ranks of what modules are given.
        rules: those of them that apply here.
        assume: ``"example"``: the model is only ever called as in the example.

    Raises:
        CaptureError: if it cannot be copied.
    """
    check_own_forward(model)
    result = SameClass(copied(model))
    shared = {id(m) for m in model.modules()} & {id(m) for m in result.model.modules()}
    if shared:
        raise CaptureError("a deep copy of the model shares modules with it")
    places = Places(result.model)
    pairs: Iterable[Pair]
    if assume is None:
        succession = Succession(places)
        pairs, result.refused = succession.pairs(), succession.refused
    else:
        seen = seen_pairs(model, inputs)
        pairs = [p for p in seen if not (places.refuse(p.first) or places.refuse(p.second))]
    chosen = tuple(rule for rule in rules if rule in _RULES)
    whole = _chains(pairs) if chosen else []
    chains = [part for chain in whole for part in _parts(result.model, chain)]
    given = seen_inputs(model, inputs, {chain[0] for chain in chains})
    for paths in chains:
        chain = ModuleChain(result.model, paths, chosen)
        chain.fold(None)
        if chain.needs_shapes() and (examples := given.get(paths[0])):
            chain.fold(examples)
        chain.write(result.folded, result.refused)
    return result


def _parts(model: nn.Module, chain: list[str]) -> list[list[str]]:
    """The chain without modules that do more than a map: nothing crosses them, and to find the
    shapes of what they give takes long.
    """
    parts: list[list[str]] = [[]]
    for path in chain:
        if is_opaque(model.get_submodule(path)):
            parts.append([])
        else:
            parts[-1].append(path)
    return [part for part in parts if len(part) > 1]


def _chains(pairs: Iterable[Pair]) -> list[list[str]]:
    """Pairs, joined into the longest chains; one that has two partners has none."""
    once = list(dict.fromkeys(pairs))
    firsts, seconds = Counter(p.first for p in once), Counter(p.second for p in once)
    sole = [pair for pair in once if firsts[pair.first] == seconds[pair.second] == 1]
    after = {pair.first: pair.second for pair in sole}
    behind = set(after.values())
    chains = []
    for start in (path for path in after if path not in behind):
        chain = [start]
        while (following := after.get(chain[-1])) is not None:
            chain.append(following)
        chains.append(chain)
    return chains
