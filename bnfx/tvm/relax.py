"""Relax (TVM from 0.20 on): a pass, pipelines, a build, and a hook into TVM's own. No torch.

Importing it registers the pipeline ``"bnfx"``: ``tvm.compile(mod, target, relax_pipeline="bnfx")``.

Source: https://tvm.apache.org/docs/reference/api/python/relax/index.html
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bnfx.errors import BuildError
from bnfx.tvm.binding import bind
from bnfx.tvm.folding import Folding, Hook, ReportTarget, enabled
from bnfx.tvm.targets import require_codegen, with_arch

try:
    import tvm
    from tvm import relax
    from tvm.relax import vm_build
except ImportError as error:
    raise BuildError(
        f"bnfx.tvm.relax needs apache-tvm 0.25 or newer, and `from tvm import relax` says: "
        f"{error}. Install it: pip install 'bnfx[tvm]'"
    ) from error

from bnfx.passes.relax.rewrite import rewrite_module
from bnfx.tvm.repairs import repaired, repairing
from bnfx.tvm.runner import Runner

__all__ = ["FoldBatchNorm", "Runner", "build", "build_hook", "pipeline"]


@tvm.transform.module_pass(opt_level=0, name="bnfx.FoldBatchNorm")
class FoldBatchNorm(Folding):
    """A Relax module pass that folds every BatchNorm and constant affine op that it can.

    Usable wherever a ``tvm.transform.Pass`` is: called with a module, in a ``Sequential``, under
    ``PassInstrument``. Only constants can be folded, so bind parameters first
    (``relax.transform.BindParams``); :func:`build` does. Which graphs it folds, and the equations:
    docs/math.md.

    Args:
        rules: ``"all"``, ``"none"`` or names of rules, as in ``torch.compile``'s options.
        report: where the :class:`bnfx.Report` of each run goes: a callable, or a path.

    Attributes:
        report: the :class:`bnfx.Report` of the last run, ``None`` before the first.
    """

    def transform_module(
        self, mod: tvm.IRModule, context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The folded module; ``mod`` is untouched."""
        rewritten = rewrite_module(mod, self._rules, self._detailed)
        self._tell(rewritten.reports)
        return rewritten.module


def pipeline(
    target: Any = None, *, rules: str | Sequence[str] = "all", report: ReportTarget = None
) -> Any:
    """The target's default pipeline with :class:`FoldBatchNorm` in front.

    For ``"c"`` TVM has none: it is the generic pipeline then, which ``tvm.compile`` takes.

    ``tvm.compile(mod, target, relax_pipeline=bnfx.tvm.relax.pipeline(target))``.

    Args:
        target: a ``tvm.target.Target``, or what makes one; ``None`` for the current one, or for
            TVM's generic pipeline if there is none.
        rules, report: see :class:`FoldBatchNorm`.

    Returns:
        A ``tvm.transform.Pass``.
    """
    if target is None:
        target = tvm.target.Target.current(allow_none=True)
    fold = FoldBatchNorm(rules, report)
    passes = [fold, repairing(), _default_pipeline(target)]
    return tvm.transform.Sequential(passes, name="bnfx")


def _default_pipeline(target: Any) -> Any:
    if target is None:
        return relax.get_pipeline("default")
    target = tvm.target.Target(target)
    if target.kind.name == "c":  # it has none of its own
        return relax.get_pipeline("default")
    try:
        return relax.get_default_pipeline(target)
    except ValueError as error:
        raise BuildError(
            f"TVM has no pipeline for {target}; pass relax_pipeline: {error}"
        ) from error


def _registered() -> Any:
    def run(mod: tvm.IRModule, context: tvm.transform.PassContext) -> Any:
        return pipeline()(mod)  # the target that tvm.compile entered

    return tvm.transform.module_pass(run, opt_level=0, name="bnfx")


with contextlib.suppress(ValueError):  # registered already, and the module is imported anew
    relax.register_pipeline("bnfx")(_registered)


def build(
    mod: tvm.IRModule,
    target: Any = None,
    params: Mapping[str, Any] | None = None,
    *,
    arch: str | None = None,
    rules: str | Sequence[str] = "all",
    report: ReportTarget = None,
    **options: Any,
) -> Any:
    """``tvm.compile`` with :func:`pipeline`, within the caller's ``PassContext``.

    Args:
        mod: of Relax functions.
        target: ``"llvm"``, ``"cuda"``, or any other target; ``None`` for the current one.
        params: name -> tensor (of TVM, NumPy or torch), bound to ``main`` as constants.
        arch: for ``"cuda"``: the GPU to generate code for, such as ``"sm_90"``; this machine's if
            it has one.
        rules, report: see :class:`FoldBatchNorm`.
        options: other arguments of ``tvm.compile``; a ``relax_pipeline`` runs behind the fold.

    Returns:
        What ``tvm.compile`` returns: an executable for ``relax.VirtualMachine`` (or
        :class:`Runner`), with ``export_library``.

    Raises:
        TypeError: if ``mod`` holds no Relax function.
        BuildError: if there is no target, this TVM has no code generator for it, or no ``arch`` is
            given and there is no GPU to take it from; if ``params`` names what ``main`` does not
            take.
    """
    functions = mod.functions.values() if isinstance(mod, tvm.IRModule) else ()
    if not any(isinstance(function, relax.Function) for function in functions):
        raise TypeError("mod must be a tvm.IRModule with a Relax function")
    target = with_arch(target, arch)
    require_codegen(target)
    if params:
        mod = bind(mod, params)
    mod = repaired(enabled(FoldBatchNorm(rules, report))(mod))
    given = options.pop("relax_pipeline", None)
    with _hook.taken():  # the fold is done
        chosen = _default_pipeline(target) if given is None else given
        return tvm.compile(mod, target, relax_pipeline=chosen, **options)


_hook: Hook[Any] = Hook("bnfx_relax_hook")


@contextlib.contextmanager
def build_hook(
    rules: str | Sequence[str] = "all", report: ReportTarget = None
) -> Iterator[FoldBatchNorm]:
    """Within this block, TVM's own ``tvm.compile`` and ``relax.build`` fold, for every target.

    For builds that are started by code that is not yours. It holds for the thread (or task) that
    entered the block, and for whatever ``PassContext`` and pipeline are used then; other threads
    build as ever. Outside of it nothing is changed. Code that took TVM's function by
    ``from tvm.relax import build`` before the first hook of the process has TVM's own, which knows
    of no hook; ``tvm.compile`` may be taken at any time.

    Yields:
        The pass, whose ``report`` tells what the last build in the block folded.
    """
    _patch()
    with _hook.held(FoldBatchNorm(rules, report)) as fold:
        yield fold


@functools.cache
def _patch() -> None:
    """Let TVM's builder ask for a hook: both its entry points end in it."""
    built = vm_build.build

    @functools.wraps(built)
    def folding_build(mod: Any, *args: Any, **kwargs: Any) -> Any:
        with _hook.taken() as fold:
            if fold is not None:
                mod = repaired(enabled(fold)(mod))
            return built(mod, *args, **kwargs)

    vm_build.build = relax.build = folding_build
