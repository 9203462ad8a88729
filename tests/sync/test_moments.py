"""Moments keep their digits: against float64 on the same numbers."""

from __future__ import annotations

import torch

from bnfx.sync.moments import local_moments, merge


def test_merging_keeps_digits() -> None:
    """Means near 1e4 that differ by 0.1, of 64 ranks with other counts: rounding must cancel."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 50, (64, 1), generator=generator).float()
    means = 1e4 + 0.1 * torch.randn(64, 200, generator=generator)
    moments = torch.cat([counts, means * (counts > 0), torch.zeros(64, 200)], dim=1)
    merged, truth = merge(moments), merge(moments.double())
    weights = counts.double() / counts.double().sum()
    mean = (weights * means.double()).sum(0)
    var = (weights * (means.double() - mean) ** 2).sum(0)
    torch.testing.assert_close(truth.var, var, rtol=1e-8, atol=0)
    torch.testing.assert_close(merged.var.double(), var, rtol=2e-6, atol=0)
    ulp = 2.0**-10  # of float32 at 1e4
    assert (merged.mean.double() - mean).abs().max() <= 0.51 * ulp


def test_one_rank_keeps_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 1e4 + 0.1 * torch.randn(64, 5, 50, generator=generator)
    found = local_moments(x, torch.float32)
    count, mean, m2 = found.count, found.mean, found.m2
    right = x.double().transpose(0, 1).flatten(1)
    assert count == 3200
    torch.testing.assert_close(mean.double(), right.mean(1), rtol=6e-8, atol=0)
    torch.testing.assert_close(m2.double() / 3200, right.var(1, correction=0), rtol=1e-5, atol=0)


def test_no_values_at_all() -> None:
    moments = local_moments(torch.empty(0, 3, 4), torch.float32).row()
    assert torch.equal(moments, torch.zeros(7))
    merged = merge(torch.stack([moments, moments]))
    assert [t.tolist() for t in (merged.total, merged.mean, merged.var)] == [
        [0.0],
        [0.0] * 3,
        [0.0] * 3,
    ]
