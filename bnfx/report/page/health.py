"""What the numbers of BatchNorms say of a model: findings, each with what it means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bnfx.passes.details import NormNumbers, Op
from bnfx.report.wording import counted

_USUAL_EPS = (1e-5, 1e-3)
_USUAL_MOMENTUM = (0.1, 0.01, 0.03, 0.001)
_DEAD = 1e-6  # of the largest gamma of its layer
_HALF_LARGEST, _HALF_NORMAL = 65504.0, 6.104e-5  # of float16
_TIGHT = 8  # times below the largest: a float16 sum of so few such products overflows


@dataclass(frozen=True)
class Finding:
    """Something to know of some layers.

    Args:
        title: what was found.
        meaning: what follows from it, and what to do.
        grave: whether answers may be wrong because of it, in half precision or altogether.
        layers: name of the layer, and the figures there.
    """

    title: str
    meaning: str
    grave: bool
    layers: tuple[tuple[str, str], ...]


def findings(norms: Mapping[str, NormNumbers], folded: Mapping[str, Op]) -> list[Finding]:
    """What is worth knowing, the grave first.

    Args:
        norms: by the layer's name.
        folded: ops that store folded weights, by name.
    """
    found = [
        *_of_norms(norms),
        *_finding(
            "Folded weights near the limits of float16",
            f"float16 ends at 65504, and below {_HALF_NORMAL:.0e} it loses digits. Fold and run "
            "these layers in bfloat16 or float32; bnfx refuses a fold that would overflow.",
            True,
            ((name, _half(op.largest)) for name, op in folded.items()),
        ),
    ]
    return sorted(found, key=lambda finding: not finding.grave)


def _of_norms(norms: Mapping[str, NormNumbers]) -> Iterator[Finding]:
    yield from _finding(
        "Numbers that are NaN or infinite",
        "Such a layer answers NaN, folded or not, and bnfx leaves it alone. The checkpoint is "
        "damaged, or training diverged.",
        True,
        ((name, _not_finite(norm)) for name, norm in norms.items()),
    )
    yield from _finding(
        "No batch was ever tracked",
        "num_batches_tracked is 0: the running statistics are those of a new layer. Was the "
        "checkpoint loaded? The fold is exact all the same.",
        True,
        ((name, "0 batches") for name, norm in norms.items() if norm.tracked == 0),
    )
    yield from _finding(
        "eps is at least as large as running variances",
        "In these channels eps, not the data, decides how much is scaled: their inputs hardly "
        "vary, as behind a dead ReLU, or come in tiny units. A converter that changes eps changes "
        "the answer here.",
        False,
        ((name, _channels(_below(norm), len(norm.variance))) for name, norm in norms.items()),
    )
    yield from _finding(
        "Channels that gamma switches off",
        "gamma is (almost) 0, so the output is beta whatever the input: such channels can be "
        "pruned. A rewrite that divides by gamma gives NaN here; bnfx never divides by it.",
        False,
        ((name, _channels(_dead(norm), len(norm.gamma))) for name, norm in norms.items()),
    )
    yield from _finding(
        "An unusual eps",
        "PyTorch's default is 1e-5, TensorFlow's 1e-3. A value from another framework or a typing "
        "slip changes answers where variances are small.",
        False,
        (
            (name, f"eps = {norm.eps:g}")
            for name, norm in norms.items()
            if not any(math.isclose(norm.eps, usual, rel_tol=1e-3) for usual in _USUAL_EPS)
        ),
    )
    yield from _finding(
        "An unusual momentum",
        "PyTorch's momentum is the weight of the new batch (0.1); TensorFlow's is that of the old "
        "statistics (0.99). 0.9 and above is often the one taken for the other.",
        False,
        (
            (name, f"momentum = {norm.momentum:g}")
            for name, norm in norms.items()
            if norm.momentum is not None
            and not any(math.isclose(norm.momentum, usual) for usual in _USUAL_MOMENTUM)
        ),
    )


def _finding(
    title: str, meaning: str, grave: bool, layers: Iterator[tuple[str, str]]
) -> Iterator[Finding]:
    some = tuple((name, figures) for name, figures in layers if figures)
    if some:
        yield Finding(title, meaning, grave, some)


def _channels(count: int, of: int) -> str:
    return f"{count} of {counted(of, 'channel')}" if count else ""


def _below(norm: NormNumbers) -> int:
    return sum(value <= norm.eps for value in norm.variance)


def _dead(norm: NormNumbers) -> int:
    largest = max(map(abs, norm.gamma), default=0.0)
    return sum(abs(value) <= _DEAD * largest for value in norm.gamma)


def _not_finite(norm: NormNumbers) -> str:
    numbers = (*norm.scale, *norm.variance, *norm.gamma)
    return _channels(sum(not math.isfinite(value) for value in numbers), len(numbers)).replace(
        "channel", "number"
    )


def _half(largest: Sequence[float]) -> str:
    high = sum(value > _HALF_LARGEST / _TIGHT for value in largest)
    low = sum(0 < value < _HALF_NORMAL for value in largest)
    parts = [
        f"{_channels(high, len(largest))} up to {max(largest):.3g}" if high else "",
        f"{_channels(low, len(largest))} with no weight above {_HALF_NORMAL:.0e}" if low else "",
    ]
    return "; ".join(filter(None, parts))
