"""Other projects' SyncBatchNorms that are installed and run on CPU; see docs/sync-cost.md."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable

from torch import nn


def others(model: Callable[[], nn.Module]) -> dict[str, nn.Module]:
    """A copy of the model for each one that is installed, its BatchNorm2d replaced.

    Args:
        model: makes one.
    """
    found: dict[str, nn.Module] = {}
    # fairscale uses what torch has deprecated since; that is no news to who runs a benchmark.
    warnings.filterwarnings("ignore", module="fairscale")
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*deprecated")
    try:
        fairscale = importlib.import_module("fairscale.experimental.nn")
    except ImportError:
        return found
    # Its forward takes BatchNorm2d for any number of dimensions.
    found["fairscale"] = fairscale.SyncBatchNorm.convert_sync_batchnorm(model())
    return found
