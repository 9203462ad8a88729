"""The arguments that calls may leave out, beside what torch itself says of them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bnfx.passes.fx.calls import signatures
from bnfx.passes.fx.calls.signatures import REQUIRED

aten = torch.ops.aten
IN_PYTHON: dict[str, Any] = {
    "BATCH_NORM": F.batch_norm,
    "INSTANCE_NORM": F.instance_norm,
    "MAX_POOL": vars(F)["_max_pool2d"],
    "ADAPTIVE_AVG": F.adaptive_avg_pool2d,
    "ADAPTIVE_MAX": vars(F)["_adaptive_max_pool2d"],
    "DROPOUT": F.dropout2d,
    "ALPHA_DROPOUT": F.alpha_dropout,
    "INTERPOLATE": F.interpolate,
    "PAD": F.pad,
    "LEAKY": F.leaky_relu,
    "IN_PLACE": F.relu,
}
IN_ATEN: dict[str, Any] = {
    "AVG_POOL": aten.avg_pool2d.default,
    "AVG_POOL_1D": aten.avg_pool1d.default,
    "MEAN": aten.mean.dim,
    "AMAX": aten.amax.default,
    "CAT": aten.cat.default,
    "NATIVE_BATCH_NORM": aten.native_batch_norm.default,
    "NORM_OF_ATEN": aten.batch_norm.default,
    "INSTANCE_NORM_OF_ATEN": aten.instance_norm.default,
    "DROPOUT_OF_ATEN": aten.dropout.default,
}


@pytest.mark.parametrize("name", IN_PYTHON)
def test_defaults_of_functions(name: str) -> None:
    parameters = list(inspect.signature(IN_PYTHON[name]).parameters.values())[1:]
    given = {p.name: REQUIRED if p.default is p.empty else p.default for p in parameters}
    assert list(getattr(signatures, name).items())[1:] == list(given.items())


@pytest.mark.parametrize("name", IN_ATEN)
def test_defaults_of_overloads(name: str) -> None:
    """In ATen an empty list stands for what Python leaves out, and one number for several."""
    ours = list(getattr(signatures, name).values())
    theirs = IN_ATEN[name]._schema.arguments
    assert len(ours) == len(theirs)
    for default, argument in zip(ours, theirs, strict=True):
        value = argument.default_value
        several = isinstance(value, list) and value
        if argument.has_default_value():
            assert default == (value[0] if several else value) or (value == [] and not default)
