"""Within DDP's ``join()``, a rank that is out of batches does not come to share statistics."""

from __future__ import annotations

from typing import Any

from torch.nn.parallel import DistributedDataParallel

UNEVEN = (
    "DDP's join() is in use, and a rank that is out of batches would leave its peers waiting for "
    "its statistics; use Join([ddp], throw_on_early_termination=True), which ends all ranks "
    "together, or give all ranks as many batches"
)


def is_joining() -> bool:
    """Whether a DDP model is running whose ranks may end at different steps."""
    ddp: Any = getattr(DistributedDataParallel, "_active_ddp_module", None)
    config = getattr(ddp, "_join_config", None)
    return bool(config is not None and config.enable and not config.throw_on_early_termination)
