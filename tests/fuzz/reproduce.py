"""A program of its own for a network and a setting, which shows a wrong answer again."""

from __future__ import annotations

import inspect

import pytest
from fuzz import checks
from fuzz.checks import Setting
from fuzz.network import Network


def program(network: Network, shape: tuple[int, ...], setting: Setting, seed: int) -> str:
    """Source that raises what `check` raises, and prints "right" where nothing is wrong."""
    return f"""{inspect.getsource(checks)}
import torch.nn.functional as F

{network.source()}


network = Network()
network.load_state_dict({network.numbers()})
assert check(network, {shape}, {setting}, {seed}), "nothing to compare"
print("right")
"""


def check(network: Network, shape: tuple[int, ...], setting: Setting, seed: int) -> bool:
    """`fuzz.checks.check`, which fails with a program.

    Raises:
        Failed: pytest's, with the program.
    """
    try:
        return checks.check(network.module(), shape, setting, seed)
    except Exception as error:
        text = program(network, shape, setting, seed)
        pytest.fail(f"{error!r}: run this by itself:\n\n{text}")
