"""bnfx: exact BatchNorm folding for PyTorch and TVM compilers.

``import bnfx`` is cheap: torch is imported when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from bnfx.direct.compiled import compile as compile
    from bnfx.errors import BnfxError as BnfxError
    from bnfx.errors import BuildError as BuildError
    from bnfx.errors import CaptureError as CaptureError
    from bnfx.errors import ConversionError as ConversionError
    from bnfx.errors import FoldWarning as FoldWarning
    from bnfx.errors import MismatchError as MismatchError
    from bnfx.errors import NotYetError as NotYetError
    from bnfx.errors import OptionError as OptionError
    from bnfx.errors import ReportWarning as ReportWarning
    from bnfx.errors import SourceError as SourceError
    from bnfx.errors import SyncError as SyncError
    from bnfx.errors import SyncWarning as SyncWarning
    from bnfx.errors import TrainingModeError as TrainingModeError
    from bnfx.errors import VerificationError as VerificationError
    from bnfx.folding.explain import explain as explain
    from bnfx.folding.fold import fold as fold
    from bnfx.passes.refusals import Code as Code
    from bnfx.passes.report import Outcome as Outcome
    from bnfx.passes.report import RewriteWarning as RewriteWarning
    from bnfx.report import Report as Report
    from bnfx.sync.convert import convert_sync_batchnorm as convert_sync_batchnorm
    from bnfx.sync.convert import revert_sync_batchnorm as revert_sync_batchnorm
    from bnfx.sync.estimate import estimate_statistics as estimate_statistics
    from bnfx.sync.functional import sync_batch_norm as sync_batch_norm
    from bnfx.sync.module import SyncBatchNorm as SyncBatchNorm
    from bnfx.weights.changes.unmarked_writes import refresh as refresh

_HOMES = {
    "BnfxError": "bnfx.errors",
    "BuildError": "bnfx.errors",
    "CaptureError": "bnfx.errors",
    "ConversionError": "bnfx.errors",
    "FoldWarning": "bnfx.errors",
    "MismatchError": "bnfx.errors",
    "NotYetError": "bnfx.errors",
    "OptionError": "bnfx.errors",
    "ReportWarning": "bnfx.errors",
    "SourceError": "bnfx.errors",
    "SyncError": "bnfx.errors",
    "SyncWarning": "bnfx.errors",
    "TrainingModeError": "bnfx.errors",
    "VerificationError": "bnfx.errors",
    "compile": "bnfx.direct.compiled",
    "explain": "bnfx.folding.explain",
    "fold": "bnfx.folding.fold",
    "RewriteWarning": "bnfx.passes.report",
    "Code": "bnfx.passes.refusals",
    "Outcome": "bnfx.passes.report",
    "Report": "bnfx.report",
    "SyncBatchNorm": "bnfx.sync.module",
    "convert_sync_batchnorm": "bnfx.sync.convert",
    "revert_sync_batchnorm": "bnfx.sync.convert",
    "sync_batch_norm": "bnfx.sync.functional",
    "estimate_statistics": "bnfx.sync.estimate",
    "refresh": "bnfx.weights.changes.unmarked_writes",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("export", "tvm"):  # modules
        return importlib.import_module(f"bnfx.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'bnfx' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
