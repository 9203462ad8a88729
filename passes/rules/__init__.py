"""All rules, in the order in which the pipeline tries them."""

from bnfx.passes.rules import fold_affine_into_linear, lower_batch_norm, merge_affines
from bnfx.passes.rules.base import Change, Rule

# A rule runs only where every rule before it has nothing left to do: lowering comes last, since a
# lowered BatchNorm can no longer be folded.
RULES: tuple[Rule, ...] = (
    fold_affine_into_linear.RULE,
    merge_affines.RULE,
    lower_batch_norm.RULE,
)

__all__ = ["RULES", "Change", "Rule"]
