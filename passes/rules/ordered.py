"""All rewrite rules, in the order in which the pipeline prefers them."""

from bnfx.passes.rules import (
    fold_affine_into_linear,
    fold_affine_into_next_linear,
    lower_batch_norm,
    merge_affines,
    merge_parallel_affines,
    merge_parallel_linear,
    merge_serial_linear,
    move_affine,
)
from bnfx.passes.rules.rule import Rule

# A rule runs only where every rule before it has nothing left to do. Parallel branches are merged
# as soon as their own BatchNorms are folded, so that a map behind their sum meets one operator. A
# map goes back, where nothing is left at a border, rather than on. Affine maps are merged when none
# of them can go by itself: a scale may, where its shift would leave a border. Lowering comes last,
# since a lowered BatchNorm can no longer be folded.
RULES: tuple[Rule, ...] = (
    fold_affine_into_linear.RULE,
    merge_parallel_linear.RULE,
    merge_parallel_affines.RULE,
    move_affine.RULE,
    fold_affine_into_next_linear.RULE,
    merge_affines.RULE,
    merge_serial_linear.RULE,
    lower_batch_norm.RULE,
)
