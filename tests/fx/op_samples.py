"""Arguments for each op of the table, with which it might well give back the first of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Arguments = tuple[Any, ...]


def t(*shape: int) -> Tensor:
    """Positive numbers, so that every op takes them."""
    return torch.rand(shape) + 0.5


def _each(names: str, samples: list[Arguments]) -> dict[str, list[Arguments]]:
    """The same samples for several ops."""
    return dict.fromkeys(names.split(), samples)


def _weights(rank: int) -> list[Arguments]:
    """Convolutions, a trivial one among them."""
    kernel = (1,) * rank
    return [
        (t(2, 3, *(4,) * rank), t(3, 3, *kernel)),
        (t(1, 1, *kernel), torch.ones(1, 1, *kernel)),
    ]


_STATISTICS = (torch.zeros(3), torch.ones(3))
_IMAGE, _ONE = t(2, 4, 6, 6), t(1, 1, 1, 1)
_BINARY: list[Arguments] = [
    (t(3, 4), t(3, 4)),
    (t(3, 4), 1),
    (t(3, 4), 0),
    (t(1), t(1)),
    (t(), t()),
]
UNARY: list[Arguments] = [(t(3, 4),), (t(1),), (t(),), (t(4, 3).T,)]
_REDUCED: list[Arguments] = [*UNARY, (t(1, 1), 0), (t(3, 4), 1, True), (t(1, 4), 0, False)]
# Each with arguments of which the op might well give back the first: no-ops, and single elements.
SAMPLES: dict[str, list[Arguments]] = {
    **_each("add sub mul div pow", _BINARY),
    **_each("rsub", [a for a in _BINARY if a[0].dim()]),
    **_each("maximum minimum", [(t(3), t(3)), (t(), t())]),
    **_each("clamp_max clamp_min", [(t(3), 9), (t(3), -9)]),
    "clamp": [(t(3), -9, 9)],
    "addcmul": [(t(3), t(3), t(3)), (t(1), torch.zeros(1), t(1))],
    "where": [(torch.tensor([True, True]), t(2), t(2))],
    "prelu": [(t(2, 3), t(3)), (t(2, 3), torch.ones(1))],
    "softmax": [(t(3, 1), 1), (t(3, 4), 0)],
    **_each("amax amin sum", _REDUCED),
    **_each("std var std_mean var_mean", [(t(3, 4),), (t(3, 4), 1), (t(4),)]),
    **_each("mean", [*_REDUCED, (t(3, 4), ()), (t(1, 1), (0, 1), True)]),
    **_each("max min", [*UNARY, (t(3), t(3)), (t(1, 3), 0)]),
    "norm": [*UNARY, (t(1, 3), 2, 0)],
    "vector_norm": [*UNARY, (t(1, 3), 2, 0), (t(3), 1, (0,), True)],
    "prod": [*UNARY, (t(1, 3), 0)],
    "addmm": [(t(2, 2), t(2, 3), t(3, 2)), (t(1, 1), torch.zeros(1, 1), t(1, 1))],
    "bmm": [(t(2, 3, 4), t(2, 4, 5)), (t(1, 1, 1), torch.ones(1, 1, 1))],
    **_each("dot vdot", [(t(3), t(3)), (t(1), torch.ones(1))]),
    "einsum": [("ij,jk->ik", t(2, 3), t(3, 2)), ("ij->ji", t(2, 3))],
    "linear": [(t(2, 3), t(4, 3)), (t(1, 1), torch.ones(1, 1)), (t(2, 2), torch.eye(2), t(2))],
    "matmul": [(t(2, 3), t(3, 2)), (t(3), t(3)), (t(2, 2), torch.eye(2)), (t(2, 3, 4), t(4, 1))],
    "mm": [(t(2, 2), torch.eye(2))],
    "mv": [(t(2, 2), t(2)), (torch.ones(1, 1), t(1))],
    "outer": [(t(2), t(2)), (t(1), torch.ones(1))],
    **{f"conv{rank}d": _weights(rank) for rank in (1, 2, 3)},
    **{f"conv_transpose{rank}d": _weights(rank) for rank in (1, 2, 3)},
    "convolution": [
        (*args, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1) for args in _weights(2)
    ],
    "group_norm": [(t(2, 4, 3), 2), (t(2, 4, 1), 4)],
    "layer_norm": [(t(2, 4), (4,)), (t(2, 1), (1,))],
    "normalize": [(t(2, 4),), (t(2, 1),), (torch.ones(2, 1), 2.0, 1)],
    "_weight_norm": [(t(3, 2), t(3, 1))],
    "norm_except_dim": [(t(3, 2), 2, 0), (t(3, 1), 2, 0)],
    **{
        f"adaptive_{kind}_pool{rank}d": [
            (t(2, 3, *(4,) * rank), size) for n in (1, 2, 4) for size in (n, [n] * rank)
        ]
        for kind in ("avg", "max")
        for rank in (1, 2, 3)
    },
    **{
        f"{kind}_pool{rank}d": [(t(2, 3, *(4,) * rank), size, 1) for size in (1, 2)]
        for kind in ("avg", "max")
        for rank in (1, 2, 3)
    },
    "interpolate": [(_IMAGE, 6), (_IMAGE, (3, 3)), (_ONE, 1)],
    "pad": [
        (_IMAGE, (0, 0)),
        (_IMAGE, (1, 1)),
        (_IMAGE, (-1, 0)),
        (_IMAGE, (0, 0, 0, 0), "reflect"),
        (_IMAGE, (0, 0), "replicate"),
        (_IMAGE, (0, 0), "circular"),
        (t(2), (0, 0)),
    ],
    **_each("cat stack", [([t(3)],), ([t(3), t(3)],)]),
    "flip": [(t(3), (0,)), (t(1), (0,)), (t(3), ())],
    "repeat": [(t(3), 1), (t(3), 2), (t(1), (1,)), (t(2, 2), 1, 1)],
    "tile": [(t(3), (1,)), (t(3), (2,))],
    "rot90": [(t(2, 2), 0, (0, 1)), (t(2, 2), 1, (0, 1))],
    "diag": [(t(3),), (t(3, 3),)],
    **_each("pixel_shuffle channel_shuffle pixel_unshuffle", [(_IMAGE, 2), (_IMAGE, 1)]),
    "as_strided": [(t(4), (2, 2), (2, 1))],
    **_each("chunk split tensor_split", [(t(4), 2), (t(4), 1)]),
    "split_with_sizes": [(t(4), [1, 3])],
    "unbind": [(t(2, 2),), (t(2, 2), 1)],
    "expand": [(t(1), (3,)), (t(3), (3,))],
    **_each("expand_as view_as reshape_as", [(t(3), t(3))]),
    "getitem": [(t(3), 1), (t(3), slice(1, 2))],
    "movedim": [(t(2, 3), 0, 1)],
    "narrow": [(t(3), 0, 1, 2)],
    "permute": [(t(2, 3), (1, 0))],
    **_each("reshape view", [(t(4), (2, 2)), (t(4), (4,))]),
    "select": [(t(3), 0, 1)],
    "slice": [(t(3), 0, 1, 2)],
    "t": [(t(2, 3),)],
    **_each("T mT", [(t(2, 3),)]),
    "transpose": [(t(2, 3), 0, 1)],
    "unflatten": [(t(4), 0, (2, 2))],
    "unsqueeze": [(t(4), 0)],
    "to": [(t(3),), (t(3), torch.float32), (t(3), torch.float64)],
    "type": [(t(3), torch.float32), (t(3), torch.float64)],
    "type_as": [(t(3), t(3)), (t(3), t(3).double())],
    **{
        f"upsample_{kind}": [(t(2, 3, *(4,) * rank), [4] * rank, *rest, None)]
        for kind, rank, rest in (
            ("nearest1d", 1, ()),
            ("nearest2d", 2, ()),
            ("nearest3d", 3, ()),
            ("linear1d", 1, (False,)),
            ("bilinear2d", 2, (False,)),
            ("trilinear3d", 3, (False,)),
            ("bicubic2d", 2, (False,)),
        )
    },
    **{
        f"_upsample_nearest_exact{rank}d": [(t(2, 3, *(4,) * rank), [4] * rank, None)]
        for rank in (1, 2, 3)
    },
    "dropout": [(t(9), 0.5, True)],
    **{f"dropout{rank}d": [(t(2, 3, *(4,) * rank), 0.5, True)] for rank in (1, 2, 3)},
    "alpha_dropout": [(t(9), 0.5, True)],
    "feature_dropout": [(t(2, 3, 4), 0.5, True)],
}
_X = t(2, 3, 4, 4)
# One op may order its arguments in several ways.
BY_SPELLING: dict[Any, list[Arguments]] = {
    F.batch_norm: [(_X, *_STATISTICS), (_X, *_STATISTICS, torch.ones(3), torch.zeros(3))],
    F.instance_norm: [(_X,), (_X, *_STATISTICS, None, None, False)],
    torch.native_batch_norm: [(_X, None, None, *_STATISTICS, False, 0.1, 1e-5)],
    torch.batch_norm: [(_X, None, None, *_STATISTICS, False, 0.1, 1e-5, False)],
    torch.instance_norm: [(_X, None, None, *_STATISTICS, False, 0.1, 1e-5, False)],
    torch.Tensor.where: [(t(2), torch.tensor([True, True]), t(2))],
    torch.ops.aten.einsum: [("ij->ji", [t(2, 3)])],
    torch.norm_except_dim: [(t(3, 2), 2, 0), (t(3, 1), 2, 0)],
    torch.linalg.norm: [*UNARY[:2], (t(1, 3), 2, 0)],
    torch.group_norm: [(t(2, 4, 3), 2, None, None, 1e-5)],
}
