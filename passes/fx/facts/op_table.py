"""One row an op. Every fact in it is checked on tensors by ``tests/fx/test_facts.py``."""

from __future__ import annotations

from typing import Any

from torch import nn

from bnfx.passes.fx.facts.known import Facts


def _new(name: str, *also: str, **more: Any) -> Facts:
    """Computes a new value."""
    return Facts(name, also, **{"fresh": True, "pure": True, **more})


def _point(name: str, *also: str, **more: Any) -> Facts:
    """Computes a new value, element by element, of the dtype of what it reads."""
    return _new(name, *also, keeps_dtype=True, **more)


def _part(name: str, *also: str, **more: Any) -> Facts:
    """The same elements, or some of them; the memory may be that of the argument."""
    return Facts(name, also, **{"pure": True, **more})


def _size(name: str, *also: str, **more: Any) -> Facts:
    """Looks at metadata alone."""
    return Facts(name, also, pure=True, metadata=True, **more)


_ARITHMETIC = (
    _point("abs", "absolute", operators=("abs",)),
    _point("add", operators=("add",)),
    _point("addcmul"),
    _point("clamp", "clip"),
    _point("clamp_max"),
    _point("clamp_min"),
    _point("div", "divide", "true_divide", operators=("truediv",)),
    _point("exp"),
    _new("maximum"),
    _new("minimum"),
    _point("mul", "multiply", operators=("mul",)),
    _point("neg", "negative", operators=("neg",)),
    _point("pow", operators=("pow",)),
    _point("reciprocal"),
    _point("rsqrt"),
    _new("rsub"),
    _point("sqrt"),
    _point("square"),
    _point("sub", "subtract", operators=("sub",)),
    _new("where"),
)
_ACTIVATIONS = (
    _point("celu", modules=(nn.CELU,)),
    _point("elu", modules=(nn.ELU,)),
    _new("gelu", modules=(nn.GELU,)),
    _point("hardsigmoid", modules=(nn.Hardsigmoid,)),
    _point("hardswish", modules=(nn.Hardswish,)),
    _point("hardtanh", modules=(nn.Hardtanh,)),
    _point("leaky_relu", modules=(nn.LeakyReLU,)),
    _point("mish", modules=(nn.Mish,)),
    _new("prelu", modules=(nn.PReLU,)),
    _point("relu", modules=(nn.ReLU,)),
    _point("relu6", modules=(nn.ReLU6,)),
    _point("selu", modules=(nn.SELU,)),
    _point("sigmoid", modules=(nn.Sigmoid,)),
    _point("silu", modules=(nn.SiLU,)),
    _new("softmax"),
    _new("softplus", modules=(nn.Softplus,)),
    _point("tanh", modules=(nn.Tanh,)),
)
_REDUCTIONS = (
    _new("amax"),
    _new("amin"),
    _new("max"),
    _new("mean"),
    _new("min"),
    _new("norm", "linalg_norm"),
    _new("prod"),
    _new("std"),
    _new("std_mean"),
    _new("sum"),
    _new("var"),
    _new("var_mean"),
    _new("vector_norm", "linalg_vector_norm"),
)
_PRODUCTS = (
    _new("addmm"),
    _new("bmm"),
    _new("dot"),
    _part("einsum"),
    _new("linear", modules=(nn.Linear,)),
    _new("matmul", operators=("matmul",)),
    _new("mm"),
    _new("mv"),
    _new("outer"),
    _new("vdot"),
    _new("conv1d", modules=(nn.Conv1d,)),
    _new("conv2d", modules=(nn.Conv2d,)),
    _new("conv3d", modules=(nn.Conv3d,)),
    _new("conv_transpose1d", modules=(nn.ConvTranspose1d,)),
    _new("conv_transpose2d", modules=(nn.ConvTranspose2d,)),
    _new("conv_transpose3d", modules=(nn.ConvTranspose3d,)),
    _new("convolution"),
)
_NORMALISATIONS = (
    # In training they write running statistics; who asks for writes is told of these separately.
    _new("batch_norm", modules=(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)),
    _new("instance_norm", modules=(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)),
    _new("native_batch_norm"),
    _new("group_norm", modules=(nn.GroupNorm,)),
    _new("layer_norm", modules=(nn.LayerNorm,)),
    _new("normalize"),
    _part("_weight_norm"),
    _new("norm_except_dim"),
)
_WINDOWS = (
    _new("adaptive_avg_pool1d", modules=(nn.AdaptiveAvgPool1d,)),
    _new("adaptive_avg_pool2d", "_adaptive_avg_pool2d", modules=(nn.AdaptiveAvgPool2d,)),
    _new("adaptive_avg_pool3d", "_adaptive_avg_pool3d", modules=(nn.AdaptiveAvgPool3d,)),
    _new("adaptive_max_pool1d", modules=(nn.AdaptiveMaxPool1d,)),
    _new("adaptive_max_pool2d", modules=(nn.AdaptiveMaxPool2d,)),
    _new("adaptive_max_pool3d", modules=(nn.AdaptiveMaxPool3d,)),
    _new("avg_pool1d", modules=(nn.AvgPool1d,)),
    _new("avg_pool2d", modules=(nn.AvgPool2d,)),
    _new("avg_pool3d", modules=(nn.AvgPool3d,)),
    _new("max_pool1d", modules=(nn.MaxPool1d,)),
    _new("max_pool2d", modules=(nn.MaxPool2d,)),
    _new("max_pool3d", modules=(nn.MaxPool3d,)),
    _new("interpolate", modules=(nn.Upsample,)),
    _new("upsample_nearest1d"),
    _new("upsample_nearest2d"),
    _new("upsample_nearest3d"),
    _new("_upsample_nearest_exact1d"),
    _new("_upsample_nearest_exact2d"),
    _new("_upsample_nearest_exact3d"),
    _new("upsample_linear1d"),
    _new("upsample_bilinear2d"),
    _new("upsample_trilinear3d"),
    _new("upsample_bicubic2d"),
    _new(
        "pad",
        modules=(
            *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
            *(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
            *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
            *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
            *(nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
        ),
    ),
)
_COPIES = (
    _new("cat", "concat", "concatenate"),
    _new("clone"),
    _new("flip"),
    _new("ones_like"),
    _new("repeat"),
    _new("stack"),
    _new("zeros_like"),
    _part("diag"),
    _part("rot90"),
    _part("tile"),
    _part("pixel_shuffle", modules=(nn.PixelShuffle,)),
    _part("pixel_unshuffle", modules=(nn.PixelUnshuffle,)),
    _part("channel_shuffle", modules=(nn.ChannelShuffle,)),
)
_VIEWS = (
    _part("T"),
    _part("mT"),
    _part("data"),
    _part("alias", modules=(nn.Identity,)),
    _part("as_strided", strides=True),
    _part("chunk"),
    _part("detach"),
    _part("expand"),
    _part("expand_as", like=True),
    _part("flatten", modules=(nn.Flatten,)),
    _part("getitem", operators=("getitem",)),
    _part("movedim", "moveaxis"),
    _part("narrow"),
    _part("permute"),
    _part("positive", operators=("pos",)),
    _part("reshape", "_unsafe_view"),
    _part("reshape_as", like=True),
    _part("select"),
    _part("slice"),
    _part("split"),
    _part("split_with_sizes"),
    _part("squeeze"),
    _part("t"),
    _part("tensor_split"),
    _part("transpose", "swapaxes", "swapdims"),
    _part("unbind"),
    _part("unflatten", modules=(nn.Unflatten,)),
    _part("unsqueeze"),
    _part("view", strides=True),
    _part("view_as", like=True, strides=True),
)
_CASTS = (
    _part("bfloat16"),
    _part("contiguous"),
    _part("double"),
    _part("float"),
    _part("half"),
    _part("to", "_to_copy", like=True),
    _part("type"),
    _part("type_as", like=True),
)
_METADATA = (
    _size("device"),
    _size("dim", "ndimension"),
    _size("dtype"),
    _size("is_cuda"),
    _size("is_floating_point"),
    _size("layout"),
    _size("ndim"),
    _size("numel", "sym_numel"),
    _size("shape"),
    _size("size", "sym_size"),
    Facts("data_ptr", strides=True),
    Facts("is_contiguous", strides=True),
    Facts("stride", strides=True),
    Facts("_assert_tensor_metadata", metadata=True),
)
_RANDOM = (
    Facts("dropout", modules=(nn.Dropout,), keeps_dtype=True),
    Facts("dropout1d", modules=(nn.Dropout1d,), keeps_dtype=True),
    Facts("dropout2d", modules=(nn.Dropout2d,), keeps_dtype=True),
    Facts("dropout3d", modules=(nn.Dropout3d,), keeps_dtype=True),
    Facts("alpha_dropout", modules=(nn.AlphaDropout,), keeps_dtype=True),
    Facts("feature_dropout"),
)
TABLE: tuple[Facts, ...] = (
    *_ARITHMETIC,
    *_ACTIVATIONS,
    *_REDUCTIONS,
    *_PRODUCTS,
    *_NORMALISATIONS,
    *_WINDOWS,
    *_COPIES,
    *_VIEWS,
    *_CASTS,
    *_METADATA,
    *_RANDOM,
)
