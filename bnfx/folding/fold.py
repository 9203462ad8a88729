"""``bnfx.fold``: the folded model, as a module, a graph or an exported program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

from torch import fx, nn
from torch.export import ExportedProgram

from bnfx.errors import CaptureError, OptionError, TrainingModeError
from bnfx.folding.given import ExampleInputs, check_scripted, is_training, untouched, unwrap
from bnfx.folding.keep import fold_kept
from bnfx.folding.programs.exported import fold_exported
from bnfx.folding.verify import check_answers, run_once
from bnfx.options import check_verify, nearest, parse_rules
from bnfx.passes.fx.rewrite import is_meta

_KEEPS = ("auto", "graph", "module")
_SIZES = ("open", "example")


@overload
def fold(
    model: ExportedProgram,
    *example_args: Any,
    keep: str = ...,
    rules: str | Sequence[str] = ...,
    verify: bool | float | Literal["auto"] = ...,
    assume: str | None = ...,
    sizes: Literal["open", "example"] = ...,
    **example_kwargs: Any,
) -> ExportedProgram: ...
@overload
def fold(
    model: nn.Module,
    *example_args: Any,
    keep: Literal["graph"],
    rules: str | Sequence[str] = ...,
    verify: bool | float | Literal["auto"] = ...,
    assume: str | None = ...,
    sizes: Literal["open", "example"] = ...,
    **example_kwargs: Any,
) -> fx.GraphModule: ...
@overload
def fold(
    model: nn.Module,
    *example_args: Any,
    keep: str = ...,
    rules: str | Sequence[str] = ...,
    verify: bool | float | Literal["auto"] = ...,
    assume: str | None = ...,
    sizes: Literal["open", "example"] = ...,
    **example_kwargs: Any,
) -> nn.Module: ...
def fold(
    model: nn.Module | ExportedProgram,
    *example_args: Any,
    keep: str = "auto",
    rules: str | Sequence[str] = "all",
    verify: bool | float | Literal["auto"] = "auto",
    assume: str | None = None,
    sizes: Literal["open", "example"] = "open",
    **example_kwargs: Any,
) -> nn.Module | ExportedProgram:
    """Copy ``model``, in evaluation mode, with its BatchNorms folded into neighbouring weights.

    ``y = gamma * (W x + b - mean) / sqrt(var + eps) + beta`` becomes ``y = W' x + b'``, evaluated
    in float64 and rounded once to the weights' dtype. What cannot be proved exact is left as it is;
    :func:`bnfx.explain` says why.

    Args:
        model: an ``nn.Module`` or a ``GraphModule`` in evaluation mode, or an ``ExportedProgram``.
            It is not changed, and shares nothing with the result.
        example_args, example_kwargs: inputs that the model is called with. A graph captures what
            the model does on them. Without inputs, the model is traced symbolically, which works
            if no branch in it depends on an argument. Inputs also give the ranks that modules do
            not state.
        keep: ``"module"``: the same class, deep-copied, with the folds that are proved, which takes
            plain code (docs/export.md): layers get new weights, a BatchNorm becomes an identity.
            ``"graph"``: a ``GraphModule``, with every fold. ``"auto"``: the class if it can hold
            every fold of a BatchNorm that a graph has, otherwise the graph.
        rules: ``"all"``, ``"none"`` or rule names.
        verify: compare both models on the inputs. ``True`` allows what rounding explains; a float
            sets the bound on the relative error; ``"auto"`` is ``True`` if there are inputs.
        assume: ``"example"``, with ``keep="module"``: you vouch that the model is only ever called
            as in the example, so what one such call shows is folded, whatever the code.
        sizes: ``"open"``: a graph takes inputs of other sizes where the model's code leaves them
            open. ``"example"``: it takes those of the example only, and folds what rests on them
            (a BatchNorm in front of zero padding, a crop at half the width), as ``torch.compile``
            does when it compiles first. What a class folds holds for any size.

    Returns:
        For an ``ExportedProgram``, another in the same dialect, with the same inputs and outputs;
        what was folded is gone from its state dict and signature. Otherwise a module of the model's
        class, or a ``GraphModule``. Folded layers keep their path (``layer1.0.conv1``), and their
        parameters keep their ``requires_grad``. A graph asserts what its capture assumed: ranks,
        decisions about sizes, and arguments that are not tensors. Where a fold in a class depends
        on a rank, an identity that checks the rank replaces the BatchNorm.

    Raises:
        TrainingModeError: if ``model`` is in training mode.
        CaptureError: if ``model`` cannot be traced or copied, or a graph cannot express what it
            does; with ``keep="auto"``, if the class cannot hold any fold either.
        OptionError: for an option that is not valid.
        FoldWarning: (a warning) if example inputs would let more be folded; if, with
            ``keep="module"``, BatchNorms stay that a graph would fold; or if, with ``keep="auto"``,
            the result for a module is a graph. The warning says why.
        VerificationError: if ``verify`` finds a larger error.
    """
    if keep not in _KEEPS:
        raise OptionError(f"keep={keep!r} is not valid{nearest(keep, _KEEPS)}")
    chosen = parse_rules(rules)
    inputs = ExampleInputs(example_args, example_kwargs, fixed=sizes == "example")
    if sizes not in _SIZES:
        raise OptionError(f"sizes={sizes!r} is not valid{nearest(sizes, _SIZES)}")
    if inputs.fixed and (not inputs or isinstance(model, ExportedProgram)):
        raise OptionError(
            'sizes="example" fixes the sizes of a module\'s example inputs: pass some after the '
            "model; the sizes of an ExportedProgram are those of its export"
        )
    if verify != "auto":
        check_verify(verify)
    if verify not in ("auto", False) and not inputs:
        raise OptionError("verify compares answers on example inputs; pass some after the model")
    if assume is not None and (assume != "example" or keep != "module" or not inputs):
        raise OptionError(
            'assume="example" vouches that the model is only called as in the example: pass '
            f'inputs and keep="module" with it; assume={assume!r}, keep={keep!r}'
        )
    wanted: bool | float = bool(inputs) if verify == "auto" else verify
    if isinstance(model, ExportedProgram):
        if keep == "module":
            raise OptionError('an ExportedProgram has no modules; leave keep="auto"')
        program, _ = fold_exported(model, chosen)
        if wanted:
            check_answers(model.module(), program.module(), inputs, wanted)
        return program
    if not isinstance(model, nn.Module):
        what = type(model).__name__
        raise TypeError(f"bnfx.fold takes an nn.Module, not {what}")
    model = unwrap(model)
    check_scripted(model)
    if is_training(model):
        raise TrainingModeError("the model is in training mode; call model.eval() first")
    if any(map(is_meta, (*model.parameters(), *model.buffers()))):
        raise CaptureError("the model is on the meta device, so its weights hold no numbers")
    with untouched(model):
        if inputs:
            run_once(model, inputs)
        folded = fold_kept(model, inputs, chosen, keep, assume)
        if wanted:
            check_answers(model, folded, inputs, wanted)
    return folded
