"""The operators that a program from a file may call.

torch resolves a target by ``getattr`` from ``torch``, ``math`` or ``operator``, whatever it finds
there. Here it is one of torch's tensor operators, whose arguments can be no more than tensors,
numbers and words like ``"bilinear"``; arithmetic of sizes; or control flow.
"""

from __future__ import annotations

import functools
import re

import torch

from bnfx.archives.refused import RefusedError, shown, words

_SIZES = words(
    "_operator.eq _operator.ne _operator.le _operator.ge _operator.lt _operator.gt _operator.neg "
    "_operator.pos _operator.mul _operator.add _operator.sub _operator.floordiv _operator.mod "
    "_operator.pow _operator.truediv _operator.and_ _operator.or_ _operator.lshift "
    "_operator.rshift _operator.getitem torch.sym_not torch.sym_int torch.sym_float torch.sym_ite "
    "torch.sym_max torch.sym_min torch.sym_sqrt torch.sym_sum math.trunc"
)
_CONTROL = words(
    "torch.ops.higher_order.cond torch.ops.higher_order.while_loop torch.ops.higher_order.map_impl "
    "torch.ops.higher_order.scan torch.ops.higher_order.associative_scan "
    "torch.ops.higher_order.wrap_with_set_grad_enabled torch.ops.higher_order.wrap_with_autocast"
)
# What begins with an underscore is private to torch, and checks its arguments less. These are what
# exports have in them.
_PRIVATE = words(
    "adaptive_avg_pool2d adaptive_avg_pool3d assert_async assert_scalar assert_tensor_metadata "
    "batch_norm_with_update batch_norm_with_update_functional cdist_forward conj conj_physical "
    "convolution convolution_mode embedding_bag fft_c2c fft_c2r fft_r2c local_scalar_dense "
    "log_softmax native_batch_norm_legit native_batch_norm_legit_functional "
    "native_batch_norm_legit_no_training native_multi_head_attention neg_view pdist_forward "
    "prelu_kernel reshape_alias scaled_dot_product_attention_math "
    "scaled_dot_product_flash_attention scaled_dot_product_flash_attention_for_cpu "
    "scaled_dot_product_efficient_attention softmax stack to_copy trilinear unsafe_index "
    "unsafe_index_put unsafe_view upsample_bicubic2d_aa upsample_bilinear2d_aa "
    "upsample_nearest_exact1d upsample_nearest_exact2d upsample_nearest_exact3d weight_norm "
    "weight_norm_interface _and__ _or__ _xor__ _lshift__ _rshift__ _iand__ _ior__ _ixor__"
)
_TENSOR = re.compile(r"torch\.ops\.aten\.([A-Za-z_]\w*)\.([A-Za-z_]\w*)", re.ASCII)
_TYPES = frozenset(["Tensor", "int", "bool", "number", "float", "Device"])
_WORDS = (
    frozenset(  # arguments that may be texts; the path that aten::from_file takes is not among them
        [
            "padding",
            "rounding_mode",
            "equation",
            "norm",
            "approximate",
            "UPLO",
            "driver",
            "mode",
            "indexing",
            "interpolation",
            "reduce",
            "side",
            "pad_mode",
            "ord",
            "p",
            "padding_side",
            "assert_msg",
        ]
    )
)
# Their results come from outside of the program, or they print.
_OUTSIDE = frozenset({"from_file", "_print"})


@functools.lru_cache(maxsize=4096)
def checked_operator(target: str) -> str:
    """``target``, if it is allowed.

    Raises:
        RefusedError: if it is not.
    """
    if target in _SIZES or target in _CONTROL:
        return target
    found = _TENSOR.fullmatch(target)
    if not found:
        raise RefusedError(
            f"it calls {shown(target)}, which is not an operator on tensors or sizes"
        )
    name, overload = found.groups()
    private = name.startswith("_") and name[1:] not in _PRIVATE
    if name in _OUTSIDE or private or not _takes_tensors_and_numbers(name, overload):
        raise RefusedError(f"it calls {shown(target)}, which is not among the allowed operators")
    return target


def _takes_tensors_and_numbers(name: str, overload: str) -> bool:
    packet = getattr(torch.ops.aten, name, None)
    op = getattr(packet, overload, None)
    if not isinstance(op, torch._ops.OpOverload) or op.namespace != "aten":
        return False
    return all(_is_allowed(str(arg.type), arg.name) for arg in op._schema.arguments)


def _is_allowed(kind: str, name: str) -> bool:
    while found := re.fullmatch(r"(?:Optional|List)\[(.*)\]", kind):
        kind = found[1]
    # A generator stays the default: nothing in a file can name one.
    return kind in _TYPES or kind == "Generator" or (kind == "str" and name in _WORDS)
