"""``bnfx.convert_sync_batchnorm`` and ``bnfx.revert_sync_batchnorm``.

A module changes its class but stays the same object, so its parameters, buffers, hooks, flags,
attributes and every reference to it remain valid. A module that would lose behaviour in this way is
refused, by name, before anything is changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase
from torch.nn.utils import parametrize

from bnfx.errors import ConversionError
from bnfx.options import check_process_group
from bnfx.sync.identities.identity import identity_of_path
from bnfx.sync.local import BatchNorm
from bnfx.sync.module import SyncBatchNorm

log = logging.getLogger("bnfx")

LOCAL = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNorm)
_SYNCHRONISED = (SyncBatchNorm, nn.SyncBatchNorm)
# What torch's SyncBatchNorm and ours keep beyond a BatchNorm's own attributes.
_EXTRA = ("process_group", "local_class", "path", "identity")


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Args:
        converted: path -> ``"old class -> new class"``; each module once, by its first path.
        already: paths of the BatchNorms that were already as wanted, and were left alone.
    """

    converted: Mapping[str, str]
    already: tuple[str, ...]

    def __str__(self) -> str:
        head = f"{len(self.converted)} BatchNorm converted, {len(self.already)} left as they were"
        return "\n".join([head, *(f"{path}: {what}" for path, what in self.converted.items())])


def convert_sync_batchnorm(
    module: nn.Module,
    process_group: Any = None,
    *,
    report: Callable[[Conversion], Any] | None = None,
) -> nn.Module:
    """Make each BatchNorm of ``module`` a :class:`bnfx.SyncBatchNorm`, in place.

    Each stays the same object, with the same parameters, so an optimizer need not be recreated, and
    a module that is used in several places is synchronised in all of them. A module that already is
    a ``bnfx.SyncBatchNorm`` is left alone, including its group; torch's ``SyncBatchNorm`` keeps its
    group unless ``process_group`` is given.

    Args:
        module: contains, or is, a ``BatchNorm1d``, ``2d``, ``3d`` or ``torch.nn.SyncBatchNorm``.
        process_group: the group whose ranks share statistics; ``None`` for the default group.
        report: called with the :class:`Conversion`, which is logged in any case.

    Returns:
        ``module``.

    Raises:
        OptionError: if ``process_group`` is not a process group.
        ConversionError: for a subclass with behaviour of its own, a lazy module that has not run
            yet, or a parametrized one; nothing is converted then.
    """
    check_process_group(process_group)

    def convert(old: Any, path: str) -> None:
        group = process_group
        if isinstance(old, nn.SyncBatchNorm):
            group = old.process_group if group is None else group
        else:
            old.local_class = type(old)
        old.process_group, old.path, old.identity = group, path, identity_of_path(path)
        old.__class__ = SyncBatchNorm

    return _each(module, (*LOCAL, nn.SyncBatchNorm), convert, report)


def revert_sync_batchnorm(
    module: nn.Module, *, report: Callable[[Conversion], Any] | None = None
) -> nn.Module:
    """Make each SyncBatchNorm of ``module`` local, in place.

    A module that :func:`convert_sync_batchnorm` made becomes what it was: a ``BatchNorm1d``, ``2d``
    or ``3d``. One that was synchronised from the start, or by torch's own conversion, does not say
    how many dimensions it is for; it becomes a :class:`bnfx.sync.local.BatchNorm`, which takes any.

    Args:
        module: contains, or is, a ``bnfx.SyncBatchNorm`` or ``torch.nn.SyncBatchNorm``.
        report: called with the :class:`Conversion`, which is logged in any case.

    Returns:
        ``module``.

    Raises:
        ConversionError: as for :func:`convert_sync_batchnorm`.
    """

    def revert(old: Any, path: str) -> None:
        kind = getattr(old, "local_class", None) or BatchNorm
        for name in _EXTRA:
            old.__dict__.pop(name, None)
        old.__class__ = kind

    return _each(module, _SYNCHRONISED, revert, report)


def _each(
    root: nn.Module,
    kinds: tuple[type[nn.Module], ...],
    change: Callable[[Any, str], None],
    report: Callable[[Conversion], Any] | None,
) -> nn.Module:
    found = [(path, each) for path, each in root.named_modules() if isinstance(each, _BatchNorm)]
    for path, module in found:
        _check(path, module)
    converted: dict[str, str] = {}
    for path, module in found:
        if type(module) in kinds:
            before = type(module).__name__
            change(module, path)
            converted[path] = f"{before} -> {type(module).__name__}"
    already = tuple(path for path, _ in found if path not in converted)
    conversion = Conversion(converted, already)
    log.debug("%s", conversion)
    if report is not None:
        report(conversion)
    return root


def _check(path: str, module: nn.Module) -> None:
    """Raise for a BatchNorm that would lose behaviour with its class."""
    what = f"{path or 'the module'} is a {type(module).__name__}"
    if isinstance(module, _LazyNormBase):
        raise ConversionError(
            f"{what}, which does not know its channels yet; run the model once, then convert"
        )
    if parametrize.is_parametrized(module):
        raise ConversionError(
            f"{what} with parametrizations, which its class carries out; call torch.nn.utils."
            "parametrize.remove_parametrizations before, and register them again afterwards"
        )
    if type(module) not in (*LOCAL, *_SYNCHRONISED):
        raise ConversionError(
            f"{what}, whose own behaviour would be lost; make it a plain BatchNorm, or leave it: "
            'torch.compile(model, backend="bnfx") synchronises every BatchNorm that runs'
        )
    if "forward" in vars(module):
        raise ConversionError(f"{what} whose forward was replaced; put its own forward back first")
