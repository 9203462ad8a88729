"""Relay (TVM before 0.20): a pass, a build, and a hook into TVM's own build. No torch.

Source: https://tvm.apache.org/docs/v0.16.0/reference/api/python/relay/index.html
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bnfx.errors import BuildError
from bnfx.tvm.folding import Folding, Hook, ReportTarget, enabled
from bnfx.tvm.targets import require_codegen

try:
    import tvm
    from tvm import relay
    from tvm.relay.backend import vm
except ImportError as error:
    raise BuildError(
        f"bnfx.tvm.relay needs a TVM with Relay (before 0.20), and `from tvm import relay` says: "
        f"{error}. Install one: pip install 'bnfx[relay]' (Python 3.10)"
    ) from error

from bnfx.passes.relay.rewrite import rewrite_module

__all__ = ["FoldBatchNorm", "build", "build_hook"]

EXECUTORS = ("graph", "aot", "vm")


@tvm.transform.module_pass(opt_level=0, name="bnfx.FoldBatchNorm", required=["InferType"])
class FoldBatchNorm(Folding):
    """A Relay module pass that folds every BatchNorm and constant affine op that it can.

    Usable wherever a ``tvm.transform.Pass`` is: called with a module, in a ``Sequential``, under
    ``PassInstrument``. Only constants can be folded, so bind parameters first
    (``relay.build_module.bind_params_by_name``); :func:`build` does. Which graphs it folds, and
    the equations: docs/math.md.

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


def _folded(mod: tvm.IRModule, params: Mapping[str, Any] | None, fold: Any) -> tvm.IRModule:
    """``mod`` with ``params`` bound and folded."""
    if params:
        function = relay.build_module.bind_params_by_name(mod["main"], dict(params))
        bound = tvm.IRModule(mod.functions, mod.type_definitions, attrs=mod.attrs)
        bound.update_func(mod.get_global_var("main"), function)
        mod = bound
    result = enabled(fold)(mod)
    assert isinstance(result, tvm.IRModule)
    return result


def _require_fitting(main: relay.Function, params: Any) -> None:
    """Raise for what TVM would bind, and fail on while it infers types, or in C++."""
    if not isinstance(params, Mapping):
        raise BuildError(
            f"params is a {type(params).__name__}; it must be a mapping, name -> tensor, by the "
            "names of main's parameters"
        )
    for variable in main.params:
        name, wanted = variable.name_hint, variable.type_annotation
        if name not in params:
            continue
        given = params[name]
        if isinstance(given, (bool, int, float, list)):
            with contextlib.suppress(ValueError, TypeError):
                given = relay.const(given).data  # as TVM reads them: in 32 bits
        shape, dtype = getattr(given, "shape", None), getattr(given, "dtype", None)
        if shape is None or dtype is None:
            raise BuildError(
                f"params[{name!r}] must be a tensor of TVM or NumPy, not a {type(given).__name__}"
            )
        if not isinstance(wanted, relay.TensorType):
            continue
        sizes = [int(n) if isinstance(n, tvm.tir.IntImm) else None for n in wanted.shape]
        pairs = zip(sizes, shape, strict=False)
        fits = len(sizes) == len(shape) and all(size in (None, own) for size, own in pairs)
        if not fits or str(dtype) != wanted.dtype:
            raise BuildError(
                f"params[{name!r}] is {dtype} of shape {tuple(shape)}, but main takes {wanted}"
            )


def build(
    mod: Any,
    target: Any = None,
    params: Mapping[str, Any] | None = None,
    *,
    rules: str | Sequence[str] = "all",
    report: ReportTarget = None,
    executor: Any = None,
    **options: Any,
) -> Any:
    """``relay.build`` with :class:`FoldBatchNorm` in front, within the caller's ``PassContext``.

    Args:
        mod: a ``tvm.IRModule``, or a ``relay.Function``.
        target: of ``relay.build``; ``None`` for the current target.
        params: name -> tensor, bound as constants.
        rules, report: see :class:`FoldBatchNorm`.
        executor: ``"graph"``, ``"aot"`` or ``"vm"`` (the Relay VM, which takes shapes that are not
            fixed), or a ``relay.backend.Executor``.
        options: other arguments of ``relay.build``.

    Returns:
        The executor factory that ``relay.build`` returns; ``vm.Executable`` for the VM.

    Raises:
        TypeError: if ``mod`` is no Relay module.
        BuildError: if this TVM has no code generator for the target, or no such executor, or if
            ``params`` holds what does not fit ``main``.
    """
    if isinstance(mod, relay.Function):
        mod = tvm.IRModule.from_expr(mod)
    if not isinstance(mod, tvm.IRModule):
        raise TypeError(f"mod must be a tvm.IRModule, not {type(mod).__name__}")
    if "main" not in {variable.name_hint for variable in mod.get_global_vars()}:
        raise TypeError("mod has no function main; relay.build builds that one")
    require_codegen(target)
    if isinstance(executor, str) and executor not in EXECUTORS:
        raise BuildError(f"unknown executor {executor!r}; valid are {', '.join(EXECUTORS)}")
    if params:
        _require_fitting(mod["main"], params)
    folded = _folded(mod, params, FoldBatchNorm(rules, report))
    if executor == "vm":
        return vm.compile(folded, target, **options)
    if executor is not None:
        named = isinstance(executor, str)
        options["executor"] = relay.backend.Executor(executor) if named else executor
    return relay.build(folded, target, **options)


_hook: Hook[Any] = Hook("bnfx_relay_hook")


@contextlib.contextmanager
def build_hook(
    rules: str | Sequence[str] = "all", report: ReportTarget = None
) -> Iterator[FoldBatchNorm]:
    """Within this block, TVM's own ``relay.build`` and ``relay.vm.compile`` fold.

    For builds that are started by code that is not yours. It holds for the thread (or task) that
    entered the block, and for whatever ``PassContext`` is current then; other threads build as
    ever. Outside of it nothing is changed.

    Yields:
        The pass, whose ``report`` tells what the last build in the block folded.
    """
    _patch()
    with _hook.held(FoldBatchNorm(rules, report)) as fold:
        yield fold


@functools.cache
def _patch() -> None:
    """Let TVM's two builders ask for a hook: all its entry points end in them."""
    builder, compiler = relay.build_module.BuildModule, vm.VMCompiler
    build_module, lower, set_params = builder.build, compiler.lower, compiler.set_params

    @functools.wraps(build_module)
    def folding_build(self: Any, mod: Any, *args: Any, params: Any = None, **kwargs: Any) -> Any:
        with _hook.taken() as fold:
            if fold is not None:
                mod, params = _folded(mod, params, fold), None
            return build_module(self, mod, *args, params=params, **kwargs)

    @functools.wraps(set_params)
    def keeping_params(self: Any, params: Any) -> Any:
        self._bnfx_params = params
        return set_params(self, params)

    @functools.wraps(lower)
    def folding_lower(self: Any, mod: Any, *args: Any, **kwargs: Any) -> Any:
        with _hook.taken() as fold:
            if fold is not None:
                mod = _folded(mod, getattr(self, "_bnfx_params", None), fold)
            return lower(self, mod, *args, **kwargs)

    builder.build = folding_build
    compiler.lower, compiler.set_params = folding_lower, keeping_params
