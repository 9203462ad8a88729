"""Other projects' SyncBatchNorms, where they are installed and run on CPU.

Of the packages that can be had, fairscale's does. torch's own refuses CPU tensors; mmcv's and
inplace_abn's are operators of an extension that has to be built (mmcv-lite leaves it out);
mmengine has none of its own; apex and detectron2 are not on the package index.
"""

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
