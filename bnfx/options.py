"""The options of ``torch.compile(model, backend="bnfx", options={...})``, validated."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from bnfx.errors import OptionError
from bnfx.extras import page_packages_missing
from bnfx.passes.rules.ordered import RULES
from bnfx.passes.rules.rule import Rule

REPORT_SUFFIXES = (".html", ".json", ".txt")


@dataclass(frozen=True)
class Options:
    """Validated options; every field is a key of ``options``.

    Args:
        inner: the compiler that gets the folded graph: the name of a registered backend,
            ``"openvino"``, ``"onnxruntime"``, ``"auto"`` (the faster of these, by trial),
            ``"tvm"``, or a callable ``(gm, example_inputs) -> callable``.
        inner_options: handed to the inner backend as its own options.
        weights: how the compiled graph gets folded weights. ``"live"``: as inputs, which are filled
            anew when a parameter changed. ``"frozen"``: as constants, guarded; live after a change,
            until they have settled. ``"traced"``: the graph computes them at each call, so that
            gradients flow. ``"auto"``: traced where gradients are needed, else the faster of live
            and frozen.
        sync: ``"auto"``: BatchNorms in training share statistics while a process group of more than
            one rank is up; ``"require"``: raise where none is up; ``"off"``.
        process_group: whose ranks share statistics; ``None`` for the default group.
        rules: ``"all"``, ``"none"``, or the names of the rules to apply.
        verify: compare with the unfolded graph at compile time, and use that one if the answers
            differ; ``True`` allows what rounding explains (:func:`bnfx.folding.verify.allowed`),
            a float sets the bound on the relative error.
        first_answer: what to do if the compiled graph answers its first inputs otherwise than the
            captured graph does in PyTorch, by more than dtypes explain: ``"warn"``; ``"forbid"``:
            warn, and have PyTorch run the captured graph; ``"off"``: do not look.
        report: where the :class:`bnfx.Report` goes: a callable, or an ``.html``,
            ``.json`` or ``.txt`` path.
        check: how a call looks for writes that leave no mark on parameters on a GPU.
            ``"content"``: it compares them and waits for the answer; ``"deferred"``: it asks the
            GPU, and a later call reads the answer, so that such a write is noticed late;
            ``"marks"``: not at all. Parameters on the CPU are compared in any case.
        cudnn_fusion: whether convolution, bias, sum and ReLU become one call of cuDNN, under
            Inductor: ``"off"``, ``"trial"`` where that is measured to be faster, ``"always"``.
        weight_layout: ``"given"``, or ``"channels_last"`` for folded weights that are inputs.

    Raises:
        OptionError: naming the nearest valid key or value.
    """

    inner: str | Callable[..., Any] = "inductor"
    inner_options: Mapping[str, Any] = field(default_factory=dict)
    weights: str = "auto"
    sync: str = "auto"
    process_group: Any = None
    rules: str | Sequence[str] = "all"
    verify: bool | float = False
    first_answer: str = "warn"
    report: Callable[..., Any] | str | os.PathLike[str] | None = None
    check: str = "content"
    cudnn_fusion: str = "off"
    weight_layout: str = "given"

    def __post_init__(self) -> None:
        if not isinstance(self.inner, str) and not callable(self.inner):
            raise OptionError(f"inner must be a backend's name or a callable, not {self.inner!r}")
        if not isinstance(self.inner_options, Mapping):
            raise OptionError(f"inner_options must be a dict, not {self.inner_options!r}")
        _one_of("weights", self.weights, ("auto", "live", "frozen", "traced"))
        _one_of("first_answer", self.first_answer, ("warn", "forbid", "off"))
        _one_of("sync", self.sync, ("auto", "off", "require"))
        _one_of("check", self.check, ("content", "deferred", "marks"))
        _one_of("cudnn_fusion", self.cudnn_fusion, ("off", "trial", "always"))
        _one_of("weight_layout", self.weight_layout, ("given", "channels_last"))
        if self.cudnn_fusion != "off" and self.inner != "inductor":
            raise OptionError(
                f"cudnn_fusion={self.cudnn_fusion!r} is for inner='inductor' only; leave it out"
            )
        check_process_group(self.process_group)
        parse_rules(self.rules)
        check_verify(self.verify)
        check_report(self.report)

    @property
    def wants_details(self) -> bool:
        """Whether reports go to where their details are drawn."""
        return draws_details(self.report)

    @staticmethod
    def parse(options: Mapping[str, Any] | None) -> Options:
        """Options from the dict that ``torch.compile`` hands over."""
        known = [each.name for each in fields(Options)]
        for key in options or {}:
            if key not in known:
                raise OptionError(f"unknown option {key!r}{nearest(key, known)}")
        return Options(**(options or {}))


def parse_rules(rules: str | Sequence[str]) -> tuple[Rule, ...]:
    """``"all"``, ``"none"`` or names of rules -> the rules, in the pipeline's order."""
    if rules == "all":
        return RULES
    if rules == "none":
        return ()
    names = [rule.name for rule in RULES]
    if isinstance(rules, str) and rules in names:
        rules = [rules]
    if isinstance(rules, str):
        wanted = nearest(rules, ["all", "none", *names])
        raise OptionError(
            f'rules must be "all", "none" or a list of rule names, not {rules!r}{wanted}'
        )
    try:
        chosen = list(rules)
    except TypeError:
        raise OptionError(
            f'rules must be "all", "none" or a list of rule names, not {rules!r}'
        ) from None
    for name in chosen:
        if name not in names:
            raise OptionError(f"unknown rule {name!r}{nearest(name, names)}")
    return tuple(rule for rule in RULES if rule.name in chosen)


def check_verify(verify: bool | float) -> None:
    """Raise :class:`OptionError` unless it is a bool or a positive number."""
    if isinstance(verify, bool):
        return
    if not isinstance(verify, (int, float)) or not verify > 0:
        raise OptionError(f"verify must be True, False or a positive number, not {verify!r}")


def nearest(word: object, known: Sequence[str]) -> str:
    """A hint: the closest valid word, or all of them."""
    close = difflib.get_close_matches(str(word), known, n=1)
    return (
        f"; did you mean {close[0]!r}?" if close else f"; valid are {', '.join(map(repr, known))}"
    )


def _one_of(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise OptionError(f"{name}={value!r} is not valid{nearest(value, known)}")


def check_process_group(group: Any) -> None:
    """Raise :class:`OptionError` for what is no process group, or no longer one."""
    if group is None:
        return
    import torch.distributed as dist

    outside = getattr(getattr(dist, "GroupMember", None), "NON_GROUP_MEMBER", None)
    if group is not outside and not isinstance(group, getattr(dist, "ProcessGroup", ())):
        hint = (
            "; pass torch.distributed.new_group(ranks)" if isinstance(group, (list, tuple)) else ""
        )
        if hasattr(group, "get_group"):
            hint = "; pass its get_group(), of the dimension over which the batch is split"
        raise OptionError(f"process_group must be a ProcessGroup or None, not {group!r}{hint}")


def draws_details(report: Any) -> bool:
    """Whether the report goes to where its details are drawn: a page."""
    return not callable(report) and Path(report or "").suffix == ".html"


def check_report(path: Any) -> None:
    """Raise :class:`OptionError` unless a report can be handed there; ``None`` is nowhere."""
    if path is None or callable(path):
        return
    try:
        suffix = Path(path).suffix
    except TypeError:
        what = f"{type(path).__name__} object"
        hint = "; pass its append method" if hasattr(path, "append") else ""
        raise OptionError(f"report must be a callable or a path, not a {what}{hint}") from None
    if suffix == ".html" and (missing := page_packages_missing()) is not None:
        raise OptionError(missing)
    if suffix not in REPORT_SUFFIXES:
        known = f"{', '.join(REPORT_SUFFIXES[:-1])} or {REPORT_SUFFIXES[-1]}"
        raise OptionError(f"report path {str(path)!r} must end in {known}")
    if not Path(path).absolute().parent.is_dir():
        raise OptionError(f"the folder of report path {str(path)!r} does not exist; make it first")
