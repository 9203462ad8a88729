"""BatchNorm against torch's, and how a ChannelAffine is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfx.passes.algebra import ChannelAffine, Evaluator, Scalar, Source


def vector(name: str, *shape: int) -> Source:
    return Source(name, shape, "float64")


@pytest.mark.parametrize("eps_is_parameter", [False, True])
@pytest.mark.parametrize("with_beta", [False, True])
@pytest.mark.parametrize("with_gamma", [False, True])
@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 6),
    eps=st.sampled_from([1e-5, 1e-3, 0.1, 2.0]),
    spatial=st.sampled_from([(), (3,), (2, 3)]),
)
def test_batch_norm_is_torchs_in_evaluation(
    with_gamma: bool,
    with_beta: bool,
    eps_is_parameter: bool,
    seed: int,
    channels: int,
    eps: float,
    spatial: tuple[int, ...],
) -> None:
    random = np.random.default_rng(seed)
    arrays = {name: random.normal(0, 3, channels) for name in ("mean", "gamma", "beta")}
    arrays["gamma"][0] = 0.0
    arrays["var"] = random.choice([0.0, 1e-6, 1.0, 50.0], channels)
    arrays["eps"] = np.asarray(eps)
    affine = ChannelAffine.batch_norm(
        vector("mean", channels),
        vector("var", channels),
        vector("gamma", channels) if with_gamma else None,
        vector("beta", channels) if with_beta else None,
        vector("eps") if eps_is_parameter else eps,
    )
    x = random.normal(0, 3, (2, channels, *spatial))
    evaluate = Evaluator(lambda source: arrays[source.name], x)

    def column(values: Any) -> Any:
        return np.reshape(values, (channels, *(1 for _ in spatial)))

    y = column(evaluate(affine.scale)) * x + column(evaluate(affine.shift))

    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    expected = F.batch_norm(
        torch.from_numpy(x),
        tensors["mean"],
        tensors["var"],
        tensors["gamma"] if with_gamma else None,
        tensors["beta"] if with_beta else None,
        eps=eps,
    ).numpy()
    scale = np.abs(column(evaluate(affine.scale)))
    size = scale * (np.abs(x) + np.abs(column(arrays["mean"]))) + np.abs(column(arrays["beta"]))
    assert affine.channels == channels
    assert (np.abs(y - expected) <= 1e-14 * size).all()


def test_gamma_of_zero_leaves_beta_exactly() -> None:
    arrays = {"mean": np.array([1e30]), "var": np.array([1e-30]), "zero": np.zeros(1)}
    arrays["beta"] = np.array([0.1])
    affine = ChannelAffine.batch_norm(
        *(vector(name, 1) for name in ("mean", "var", "zero", "beta")), 1e-5
    )
    evaluate = Evaluator(lambda source: arrays[source.name], np.zeros(()))
    assert evaluate(affine.scale) == 0.0
    assert evaluate(affine.shift) == 0.1


def test_channels_are_none_for_scalar_maps_only() -> None:
    one, many = vector("a"), vector("b", 3)
    assert ChannelAffine(one, one).channels is None
    assert ChannelAffine(many, one).channels == 3
    assert ChannelAffine(one, many).channels == 3


def test_sources_are_each_named_once_in_first_use_order() -> None:
    mean, var, gamma, beta = (vector(name, 2) for name in ("mean", "var", "gamma", "beta"))
    affine = ChannelAffine.batch_norm(mean, var, gamma, beta, 1e-5)
    assert list(affine.sources()) == [gamma, var, beta, mean]


@pytest.mark.parametrize(
    ("scale", "shift", "message"),
    [
        (vector("a", 2, 1), Scalar(0.0), r"scale must have shape \(C,\) or \(\), not \(2, 1\)"),
        (Scalar(1.0), vector("a", 1, 2), r"shift must have shape \(C,\) or \(\), not \(1, 2\)"),
        (vector("a", 2), vector("b", 3), "scale has 2 channels, shift 3"),
        (vector("a", 1), vector("b", 3), "scale has 1 channels, shift 3"),
    ],
)
def test_bad_maps_are_refused_by_name(scale: Any, shift: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChannelAffine(scale, shift)


def test_maps_of_other_channels_do_not_compose() -> None:
    two, three = (ChannelAffine(vector("a", n), vector("b", n)) for n in (2, 3))
    with pytest.raises(ValueError, match="2 channels after 3"):
        two @ three


def test_a_map_composes_with_maps_and_operators_only() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        ChannelAffine.identity() @ 2.0  # type: ignore[call-overload]
