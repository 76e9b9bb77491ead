"""Products: linear layers on packed weights, and activation by activation."""

from __future__ import annotations

import math

import torch

from .. import _core
from ..errors import ShapeError
from ._elementwise import quantize
from ._registry import EPILOGUE, array, register, row_count

# Who may watch the dispatcher: modes, torch.jit.trace, the profiler.
_profiler_flag = (torch.autograd.profiler.__dict__, "_is_profiler_enabled")
_has_flag = _profiler_flag[1] in _profiler_flag[0]
_core.use_tensors_of(
    torch.Tensor,
    (torch.uint8, torch.int8, torch.int32, torch.float32),
    (
        torch._C._len_torch_dispatch_stack,
        torch._C._is_torch_function_mode_enabled,
        torch._C._get_tracing_state,
        *(() if _has_flag else (torch.autograd._profiler_enabled,)),
    ),
    (_profiler_flag,) if _has_flag else (),
    torch.Tensor.is_neg,
)


def _linear(x, packed, out_features, dtype, out_scale=1.0, out_zero_point=0, lo=None, hi=None):
    out = _core.tensor_linear(x, packed, out_features, dtype, out_scale, out_zero_point, lo, hi)
    if out is not None:
        return out
    a = array(x.contiguous())
    shape = a.shape
    rows = row_count(shape, "linear")
    out = x.new_empty((*shape[:-1], out_features), dtype=dtype)
    _core.linear(a.reshape(rows, shape[-1]), array(packed), array(out).reshape(rows, out_features), out_scale, out_zero_point, lo, hi)
    return out


def _linear_dynamic(x, packed, out_features, per_row=True, symmetric=False, lo=None, hi=None):
    out = _core.tensor_linear_dynamic(x, packed, out_features, per_row, symmetric, lo, hi)
    if out is not None:
        return out
    a = array(x.contiguous())
    shape = a.shape
    rows = row_count(shape, "linear_dynamic")
    out = x.new_empty((*shape[:-1], out_features))
    _core.linear_dynamic(a.reshape(rows, shape[-1]), array(packed), out.numpy().reshape(rows, out_features), per_row, symmetric, lo, hi)
    return out


# Below are the operators as functions with the least overhead: in plain eager mode, where nobody watches the dispatcher, they call the
# kernel directly. The dispatcher's way to an implementation in Python costs more than a small product. Tensors that are not what they
# seem (subclasses, those inside torch.func transforms) are not plain memory, and take the dispatcher's way by themselves. Dynamo traces
# these functions, and takes the condition for false.
_is_tracing = torch.compiler.is_dynamo_compiling


def linear(x, packed, out_features, dtype, out_scale=1.0, out_zero_point=0, lo=None, hi=None):
    """``torch.ops.qgemm.linear`` with the least overhead: 8-bit ``x`` [..., K] times a packed weight -> ``dtype`` [..., N]."""
    if not _is_tracing():
        out = _core.eager_linear(x, packed, out_features, dtype, out_scale, out_zero_point, lo, hi)
        if out is not None:
            return out
    return _linear_op(x, packed, out_features, dtype, out_scale, out_zero_point, lo, hi)


def linear_dynamic(x, packed, out_features, per_row=True, symmetric=False, lo=None, hi=None):
    """``torch.ops.qgemm.linear_dynamic`` with the least overhead: float32 ``x`` [..., K], quantized per row, -> float32 [..., N]."""
    if not _is_tracing():
        out = _core.eager_linear_dynamic(x, packed, out_features, per_row, symmetric, lo, hi)
        if out is not None:
            return out
    return _linear_dynamic_op(x, packed, out_features, per_row, symmetric, lo, hi)


def linear_static(x, scale, zero_point, packed, out_features):
    """``quantize`` to uint8 and ``linear`` in one: float32 ``x`` [..., K], scale float32 [1], zero_point int32 [1] -> float32 [..., N]."""
    if not _is_tracing():
        out = _core.eager_linear_static(x, scale, zero_point, packed, out_features)
        if out is not None:
            return out
    return _linear_op(quantize(x, scale, zero_point, 0, 255, torch.uint8), packed, out_features, torch.float32)


def matmul(a, b, a_scale, a_zero_point, b_scale, b_zero_point, dtype, out_scale=1.0, out_zero_point=0, lo=None, hi=None):
    """``torch.ops.qgemm.matmul`` with the least overhead: 8-bit ``a`` [..., M, K] times ``b`` [..., K, N] -> ``dtype`` [..., M, N]."""
    if not _is_tracing():
        out = _core.eager_matmul(a, b, a_scale, a_zero_point, b_scale, b_zero_point, dtype, out_scale, out_zero_point, lo, hi)
        if out is not None:
            return out
    return _matmul_op(a, b, a_scale, a_zero_point, b_scale, b_zero_point, dtype, out_scale, out_zero_point, lo, hi)


def _linear_fake(x, packed, out_features, dtype, *epilogue):
    return x.new_empty((*x.shape[:-1], out_features), dtype=dtype)


def _linear_dynamic_fake(x, packed, out_features, *options):
    return x.new_empty((*x.shape[:-1], out_features), dtype=torch.float32)


# ---- rows that are quantized already ------------------------------------------------------------------------------------------------


def _linear_quantized(q, scale, zero_point, packed, out_features, lo=None, hi=None):
    a = array(q.contiguous())
    rows = row_count(a.shape, "linear_quantized")
    encodings = []
    for name, t in (("scale", scale), ("zero_point", zero_point)):
        if t.shape != q.shape[:-1] and t.numel() != 1:
            raise ShapeError(
                f"qgemm::linear_quantized: {name} is {tuple(t.shape)}; it must have one element, or one for each "
                f"row of q: {tuple(q.shape[:-1])}"
            )
        encodings.append(array(t.reshape(-1).expand(rows).contiguous()))
    out = q.new_empty((*q.shape[:-1], out_features), dtype=torch.float32)
    _core.linear_rows(a.reshape(rows, a.shape[-1]), *encodings, array(packed), out.numpy().reshape(rows, out_features), lo, hi)
    return out


# ---- 16-bit activations -------------------------------------------------------------------------------------------------------------


def _linear16(x, packed, out_features, x_scale, x_zero_point, dtype, out_scale=1.0, out_zero_point=0, lo=None, hi=None):
    a = array(x.contiguous())
    shape = a.shape
    rows = row_count(shape, "linear16")
    out = x.new_empty((*shape[:-1], out_features), dtype=dtype)
    _core.linear16(
        a.reshape(rows, shape[-1]),
        array(packed),
        array(out).reshape(rows, out_features),
        x_scale,
        x_zero_point,
        out_scale,
        out_zero_point,
        lo,
        hi,
    )
    return out


def _linear16_fake(x, packed, out_features, x_scale, x_zero_point, dtype, *epilogue):
    return x.new_empty((*x.shape[:-1], out_features), dtype=dtype)


# ---- activation by activation -------------------------------------------------------------------------------------------------------


def _product_shape(a, b):
    """Leading dimensions of a product, broadcast, and (M, N). Sizes that a tracer does not know yet are taken as they come."""
    if a.dim() < 2 or b.dim() < 2:
        raise ShapeError(
            f"qgemm::matmul: the operands are {tuple(a.shape)} and {tuple(b.shape)}; each must have at least 2 "
            "dimensions: unsqueeze a vector"
        )
    k, kb = a.shape[-1], b.shape[-2]
    if isinstance(k, int) and isinstance(kb, int) and k != kb:
        raise ShapeError(f"qgemm::matmul: a has K = {k} {tuple(a.shape)} and b has K = {kb} {tuple(b.shape)}")
    try:
        return torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]), (a.shape[-2], b.shape[-1])
    except RuntimeError:
        raise ShapeError(
            f"qgemm::matmul: the leading dimensions of {tuple(a.shape)} and {tuple(b.shape)} do not broadcast; "
            "each pair must be equal or have a 1"
        ) from None


def _operand(t):
    """A stack of matrices as the engine reads it: an array and whether its matrices are transposed. Copied when it lies otherwise."""
    if not t.is_contiguous() and t.mT.is_contiguous():
        return array(t.mT), True
    return array(t.contiguous()), False


def _broadcast(a, b, dtype):
    """Operands of the same leading dimensions, those dimensions, and an output of as many elements as their product."""
    leading, (m, n) = _product_shape(a, b)
    out = a.new_empty((*leading, m, n), dtype=dtype)
    # Matrices that meet the same b (the last leading dimensions, where b has 1 or none) are one taller matrix: b is read and packed once.
    shared = 0
    while shared < len(leading) and (shared >= b.dim() - 2 or b.shape[-3 - shared] == 1):
        shared += 1
    own = leading[: len(leading) - shared]
    a = a.expand(*leading, *a.shape[-2:])
    if shared:
        a = a.reshape(*own, math.prod(leading[len(own) :]) * m, a.shape[-1])
        b = b.reshape(*b.shape[: max(0, b.dim() - 2 - shared)], *b.shape[-2:])
    b = b.expand(*own, *b.shape[-2:])
    return a, b, own, out


def _matmul(
    a,
    b,
    a_scale,
    a_zero_point,
    b_scale,
    b_zero_point,
    dtype,
    out_scale=1.0,
    out_zero_point=0,
    lo=None,
    hi=None,
):
    out = _core.tensor_matmul(a, b, a_scale, a_zero_point, b_scale, b_zero_point, dtype, out_scale, out_zero_point, lo, hi)
    if out is not None:
        return out
    if a.dim() == b.dim() >= 2 and a.shape[:-2] == b.shape[:-2] and a.shape[-1] == b.shape[-2]:
        own = a.shape[:-2]
        out = a.new_empty((*own, a.shape[-2], b.shape[-1]), dtype=dtype)
    else:
        a, b, own, out = _broadcast(a, b, dtype)
    (a_array, transpose_a), (b_array, transpose_b) = _operand(a), _operand(b)
    _core.matmul(
        a_array,
        b_array,
        array(out).reshape(*own, a.shape[-2], b.shape[-1]),
        a_scale,
        a_zero_point,
        b_scale,
        b_zero_point,
        out_scale,
        out_zero_point,
        lo,
        hi,
        transpose_a,
        transpose_b,
    )
    return out


def _matmul_fake(a, b, a_scale, a_zero_point, b_scale, b_zero_point, dtype, *epilogue):
    leading, matrix = _product_shape(a, b)
    return a.new_empty((*leading, *matrix), dtype=dtype)


# ---- registration -------------------------------------------------------------------------------------------------------------------

_linear_op = register(f"linear(Tensor x, Tensor packed, int out_features, {EPILOGUE}) -> Tensor", _linear, _linear_fake)
_linear_dynamic_op = register(
    "linear_dynamic(Tensor x, Tensor packed, int out_features, bool per_row=True, bool symmetric=False, "
    "float? lo=None, float? hi=None) -> Tensor",
    _linear_dynamic,
    _linear_dynamic_fake,
)
linear_quantized = register(
    "linear_quantized(Tensor q, Tensor scale, Tensor zero_point, Tensor packed, int out_features, float? lo=None, float? hi=None) "
    "-> Tensor",
    _linear_quantized,
    lambda q, scale, zero_point, packed, out_features, *bounds: q.new_empty((*q.shape[:-1], out_features), dtype=torch.float32),
)
linear16 = register(
    f"linear16(Tensor x, Tensor packed, int out_features, float x_scale, int x_zero_point, {EPILOGUE}) -> Tensor",
    _linear16,
    _linear16_fake,
)
_matmul_op = register(
    f"matmul(Tensor a, Tensor b, float a_scale, int a_zero_point, float b_scale, int b_zero_point, {EPILOGUE}) -> Tensor",
    _matmul,
    _matmul_fake,
)
