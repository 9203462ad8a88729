"""Settings as a hypothesis strategy, and how many examples are taken."""

from __future__ import annotations

from typing import Any

import torch
from fuzz.checks import LIVE, WAYS, Setting
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from seeds import FUZZ


def examples(usual: int) -> settings:
    """So many, or those that ``BNFX_FUZZ`` names, which are others each time."""
    return settings(
        deadline=None,
        derandomize=not FUZZ,
        database=None,
        max_examples=FUZZ or usual,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.filter_too_much,
        ],
    )


@st.composite
def drawn_settings(draw: Any, ways: tuple[str, ...] = tuple(WAYS)) -> Setting:
    """Anything that a way can do; each choice is plain most of the time."""

    def mostly(usual: Any, *others: Any) -> Any:
        return draw(st.sampled_from([usual] * 2 * len(others) + list(others)))

    way = draw(st.sampled_from(ways))
    live, dtype = way in LIVE, mostly(torch.float64, torch.float32, torch.bfloat16)
    return Setting(
        way,
        dtype,
        mostly("contiguous", "channels last", "strided"),
        mostly((2,), (2, 2, 2), (2, 3, 2)),
        mostly("eval", "train", "mixed") if live else "eval",
        mostly(False, True) if live else False,
        mostly(False, True) if live and dtype == torch.float32 else False,
    )
