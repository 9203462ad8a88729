"""Why a rewrite was refused: stable codes, each with its meaning and what a user can do.

The codes are public: they stand in reports, and ``docs/refusals.md`` is held against this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Code(str, Enum):
    """A refusal's code; its value is what a report prints."""

    NO_LINEAR_BEFORE = "no-linear-before"
    NO_LINEAR_AFTER = "no-linear-after"
    OTHER_READERS = "other-readers"
    AXIS_MISMATCH = "axis-mismatch"
    NEGATIVE_SCALE = "negative-scale"
    NONZERO_SHIFT = "nonzero-shift"
    PADDING_VALUE = "padding-value"
    COSTS_MORE = "costs-more"
    DYNAMIC_SHAPE = "dynamic-shape"
    UNKNOWN_RANK = "unknown-rank"
    DTYPE_CHANGE = "dtype-change"
    NOTHING_BETWEEN = "nothing-between"
    NO_AFFINE_BEFORE = "no-affine-before"
    TRAINING_MODE = "training-mode"
    NO_RUNNING_STATISTICS = "no-running-statistics"
    GRADIENTS_NEEDED = "gradients-needed"
    NOT_A_PARAMETER = "not-a-parameter"
    MUTATED_IN_GRAPH = "mutated-in-graph"
    DYNAMIC_ARGUMENT = "dynamic-argument"
    UNKNOWN_ARGUMENT = "unknown-argument"
    UNSUPPORTED_FORM = "unsupported-form"
    UNSUPPORTED_DTYPE = "unsupported-dtype"
    TENSOR_SUBCLASS = "tensor-subclass"
    HAS_HOOKS = "has-hooks"
    SUBCLASS = "subclass"
    NESTED_GRAPH = "nested-graph"
    NON_FINITE = "non-finite"
    OVERFLOW = "overflow"
    UNDERFLOW = "underflow"
    OTHER_MODULES = "other-modules"
    RULE_DISABLED = "rule-disabled"
    INTERNAL_ERROR = "internal-error"


@dataclass(frozen=True)
class Meaning:
    """What a code says, and the way out."""

    meaning: str
    remedy: str


MEANINGS: dict[Code, Meaning] = {
    Code.NO_LINEAR_BEFORE: Meaning(
        "The way back from the BatchNorm does not lead to a convolution or linear layer.",
        "None needed: it is lowered to one multiply-add, which compilers fuse.",
    ),
    Code.NO_LINEAR_AFTER: Meaning(
        "The way on from the BatchNorm does not lead to a convolution or linear layer, on every "
        "branch.",
        "None needed: it is lowered to one multiply-add, which compilers fuse.",
    ),
    Code.OTHER_READERS: Meaning(
        "Something besides the BatchNorm reads the linear operator's output, so its weights "
        "cannot change.",
        "None where the model means it so: it is lowered to one multiply-add. Reading the "
        "BatchNorm's output instead would let it fold.",
    ),
    Code.AXIS_MISMATCH: Meaning(
        "The BatchNorm's channels (axis 1) are not the operator's output channels, as after a "
        "linear layer on (N, L, C) or a convolution without a batch axis. Sizes may agree by "
        "accident.",
        "None where the model means it so; otherwise transpose, so that axis 1 holds the channels.",
    ),
    Code.NEGATIVE_SCALE: Meaning(
        "The map would have to cross a maximum or an activation, which keep a scale only if it is "
        "not negative, and a channel's scale is negative (or its sign is not known yet).",
        "None needed: it is lowered to one multiply-add, which compilers fuse.",
    ),
    Code.NONZERO_SHIFT: Meaning(
        "The map would have to cross an op that keeps a scale but not a shift (an activation, zero "
        "padding, a product).",
        "None needed: it is lowered to one multiply-add, which compilers fuse.",
    ),
    Code.PADDING_VALUE: Meaning(
        "The map would have to cross padding by a constant other than zero.",
        "Pad before the convolution by its own padding argument, if that is what the model means.",
    ),
    Code.COSTS_MORE: Meaning(
        "The rewrite is exact, but would take more work than it saves (at the border of a padded "
        "convolution, for example).",
        "None needed; the cost function is in passes/rules/cost.py.",
    ),
    Code.DYNAMIC_SHAPE: Meaning(
        "The rewrite needs a size that is not fixed when compiling.",
        'Compile with dynamic=False; bnfx.fold takes sizes="example".',
    ),
    Code.UNKNOWN_RANK: Meaning(
        "The number of dimensions is not known, so the channel axes cannot be compared.",
        "Pass example inputs: bnfx.fold(model, *example_inputs), or --input on the command line.",
    ),
    Code.DTYPE_CHANGE: Meaning(
        "The BatchNorm's output has another dtype than the linear operator's.",
        "Give both one dtype, or accept the multiply-add.",
    ),
    Code.NOTHING_BETWEEN: Meaning(
        "There is nothing to move the map across: rules about neighbours have their own reasons.",
        "None needed.",
    ),
    Code.NO_AFFINE_BEFORE: Meaning(
        "No other affine map that this one could be merged with stands right before it.",
        "None needed.",
    ),
    Code.TRAINING_MODE: Meaning(
        "The BatchNorm normalises by the statistics of the batch: it is in training mode.",
        "Call model.eval() first (in Relax: nn.batch_norm with training=False).",
    ),
    Code.NO_RUNNING_STATISTICS: Meaning(
        "The BatchNorm has no running statistics (track_running_stats=False), so even in "
        "evaluation it normalises by the batch.",
        "Train with track_running_stats=True.",
    ),
    Code.GRADIENTS_NEEDED: Meaning(
        "The graph was compiled with gradients enabled for its parameters or inputs, and the fold "
        "could not be made part of it: options ask for weights computed ahead, the graph switches "
        "gradients in its middle, or no BatchNorm in it folds.",
        "Leave options={'weights': 'auto'}, or call the model under torch.no_grad().",
    ),
    Code.NOT_A_PARAMETER: Meaning(
        "A weight or statistic is not a parameter or buffer: it is computed in the graph, or the "
        "caller passes it in.",
        "Register the tensor with register_buffer or as an nn.Parameter.",
    ),
    Code.MUTATED_IN_GRAPH: Meaning(
        "The graph itself may write to the weight or statistic while it runs.",
        "Move the write out of forward.",
    ),
    Code.DYNAMIC_ARGUMENT: Meaning(
        "An attribute that must be constant (stride, padding, groups, training, ...) is computed "
        "in the graph.",
        "Make it a Python constant.",
    ),
    Code.UNKNOWN_ARGUMENT: Meaning(
        "The call has an argument, or a value of one, that bnfx does not know.",
        "Please report it; it is left as it is.",
    ),
    Code.UNSUPPORTED_FORM: Meaning(
        "The operator is known, but not in this form (for example weights of unexpected shape).",
        "Please report it; it is left as it is.",
    ),
    Code.UNSUPPORTED_DTYPE: Meaning(
        "The dtype is not a real floating-point one (integer, complex, quantised).",
        "Fold before quantising.",
    ),
    Code.TENSOR_SUBCLASS: Meaning(
        "The parameter is a tensor subclass (such as DTensor) whose arithmetic bnfx cannot vouch "
        "for.",
        "Fold before the tensor is wrapped.",
    ),
    Code.HAS_HOOKS: Meaning(
        "The module has forward hooks, which must see its own input and output.",
        "Remove the hooks before folding.",
    ),
    Code.SUBCLASS: Meaning(
        "The module is of a subclass that changes forward, or whose parameters are computed "
        "(torch.nn.utils.parametrize).",
        "Pass example inputs, or compile: tracing sees the arithmetic inside.",
    ),
    Code.NESTED_GRAPH: Meaning(
        "The BatchNorm stands in a graph that an op runs: one of an exported program, or of an op "
        "other than torch.cond, map, scan, while_loop, checkpoints and nested_compile_region.",
        "Instead of the exported program, compile the model. Elsewhere none; it is left as it is.",
    ),
    Code.NON_FINITE: Meaning(
        "A statistic or a folded value is NaN or infinite (a negative variance gives NaN too).",
        "Look at the checkpoint: the model's own output is not finite either, or nearly so.",
    ),
    Code.OVERFLOW: Meaning(
        "A folded weight is too large for its dtype, though the unfolded model is finite.",
        "Use bfloat16 or float32, or accept the multiply-add.",
    ),
    Code.UNDERFLOW: Meaning(
        "A folded channel is so small that its dtype would lose it to subnormals.",
        "Use bfloat16 or float32, or accept the multiply-add.",
    ),
    Code.OTHER_MODULES: Meaning(
        "The fold is exact in the graph, but cannot be carried out on the model's own modules "
        '(bnfx.fold with keep="module").',
        'Use keep="graph", or have one module own the layer and its BatchNorm, and run both.',
    ),
    Code.RULE_DISABLED: Meaning(
        "The rules chosen with rules= leave it alone.",
        'Use rules="all".',
    ),
    Code.INTERNAL_ERROR: Meaning(
        "The rewrite of this graph failed, and the original graph was used.",
        "Please report the warning that was printed.",
    ),
}


@dataclass(frozen=True)
class Refusal:
    """One reason not to rewrite: a stable code, and a sentence about this very node."""

    code: Code
    reason: str

    def __str__(self) -> str:
        return f"{self.code.value}: {self.reason}"
