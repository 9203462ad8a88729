"""What ``inner_options`` may say where TVM is the inner compiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bnfx.errors import BuildError, OptionError
from bnfx.options import nearest
from bnfx.tvm.targets import require_codegen, with_arch


@dataclass(frozen=True)
class Settings:
    """The options of TVM as the inner compiler.

    Args:
        target: ``"llvm"``, ``"cuda"``, or a ``tvm.target.Target``.
        arch: for ``"cuda"``, the GPU; this machine's if ``None``.
        trials: how many schedules meta_schedule measures for what the database does not have;
            0 tunes nothing. A few hundred take an hour.
        database: the folder of meta_schedule's database: what it has is used, and what is tuned is
            added. Needed for tuning.
        progress: whether tuning shows a progress bar.
        check: whether the first answer of each part that TVM runs is held against PyTorch's. It
            costs one run in PyTorch, whose time is logged.
        report: called with a :class:`bnfx.inner.tvm.Placement` for each graph that is built: what
            TVM runs, and what PyTorch, and why.
    """

    target: Any = "llvm"
    arch: str | None = None
    trials: int = 0
    database: Path | None = None
    progress: bool = True
    check: bool = True
    report: Callable[[Any], object] | None = None

    @staticmethod
    def parse(given: Mapping[str, Any]) -> Settings:
        """Check every name and value.

        Raises:
            OptionError: for an unknown name, or a value it cannot have.
        """
        known = [field.name for field in fields(Settings)]
        for name in given:
            if name not in known:
                raise OptionError(f"TVM has no inner option {name!r}{nearest(name, known)}")
        values = dict(given)
        trials = values.get("trials", 0)
        if not isinstance(trials, int) or isinstance(trials, bool) or trials < 0:
            raise OptionError(f"trials must be a number of trials, not {trials!r}")
        for name in ("progress", "check"):
            if not isinstance(values.get(name, True), bool):
                raise OptionError(f"{name} must be True or False, not {values[name]!r}")
        if values.get("report") is not None and not callable(values["report"]):
            raise OptionError(
                f"report must be a function of one Placement, not {values['report']!r}"
            )
        if values.get("database") is not None:
            values["database"] = Path(values["database"])
        elif trials:
            raise OptionError("trials needs a database: the folder that keeps what was tuned")
        try:
            target = with_arch(values.get("target", "llvm"), values.pop("arch", None))
            require_codegen(target)
        except BuildError as error:
            raise OptionError(str(error)) from None
        return Settings(**{**values, "target": target})
