"""``torch.ops.qgemm.*``: the engine's operations as PyTorch operators. Importing this module registers them.

    q = torch.ops.qgemm.quantize(x, scale, zero_point, 0, 255, torch.uint8)
    y = torch.ops.qgemm.linear(q, packed, out_features, torch.float32)

================== ======================================================================= =========================================
quantize           float32 of any shape; scale float32 and zero_point int32, [1] or [C]    uint8, int8, uint16 or int16, same shape
dequantize         8- or 16-bit integers of any shape; scale and zero_point as above       float32, same shape
quantize_dynamic   float32 [..., K]                                                        uint8 [..., K], scale, zero_point: [...] or [1]
linear             uint8 [..., K], packed                                                  dtype [..., N]
linear_dynamic     float32 [..., K], packed                                                float32 [..., N]
conv2d             uint8 [B, C, H, W], packed                                              dtype [B, Cout, HO, WO], channels_last
conv2d_dynamic     float32 [B, C, H, W], packed; one encoding for the whole tensor         float32 [B, Cout, HO, WO]
conv1d, _dynamic   the same with [B, C, L]
max_pool2d         uint8 [B, C, H, W]                                                      uint8, channels_last
avg_pool2d         uint8 [B, C, H, W]                                                      dtype, channels_last
add                two uint8 of one shape                                                  uint8, that shape
lut                uint8 of any shape, table uint8 [256]                                   uint8, same shape
================== ======================================================================= =========================================

``dtype``: uint8 or int8 (requantized with out_scale and out_zero_point), float32, or int32 (the accumulator). ``lo`` and ``hi`` bound the
output, on its own grid: ReLU is ``lo = out_zero_point`` for integers, ``lo = 0`` for floats. ``padding``: (top, left, bottom, right), or
(left, right) for conv1d. ``packed``: a 1-D uint8 tensor from ``qgemm._core.pack_linear`` or ``pack_conv2d``; the sizes that a shape
function needs (out_features, out_channels, kernel_size) are given beside it. docs/numerics.md has the arithmetic.

Every operator is one node under ``torch.compile`` and ``torch.export`` and traces with dynamic sizes.

Layout. Logical shapes are PyTorch's. Convolutions and pools compute in NHWC: a ``channels_last`` input is used where it lies, any other
is first copied to that layout. Elementwise operators keep the layout of their first input. Other non-contiguous inputs are copied.

Gradients. The operators take tensors that require grad, and their results do not require grad, as with ``torch.argmax``.

Errors, all of :mod:`qgemm.errors`: DTypeError, ShapeError, LayoutError (sparse, mkldnn and torch-quantized tensors), DeviceError (not on
the CPU; meta tensors give meta results), QuantizationError (scales, zero points and bounds with no meaning; NaN or infinity met by a
dynamic operator), PackedWeightError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from . import _core
from .errors import DeviceError, DTypeError, LayoutError, ShapeError, require

torch = require("torch", "qgemm.ops")

__all__ = [
    "add",
    "avg_pool2d",
    "conv1d",
    "conv1d_dynamic",
    "conv2d",
    "conv2d_dynamic",
    "dequantize",
    "linear",
    "linear_dynamic",
    "lut",
    "max_pool2d",
    "quantize",
    "quantize_dynamic",
]

_NHWC = torch.channels_last
_library = torch.library.Library("qgemm", "DEF")
# Fixed strides: the shape functions promise the layout that follows from the input's, so a compiler must not change the input's.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
_FOREIGN_BACKENDS = ("CUDA", "MPS", "XPU", "HPU", "PrivateUse1")
_FOREIGN_LAYOUTS = ("SparseCPU", "SparseCsrCPU", "MkldnnCPU", "QuantizedCPU")


def _register(schema: str, cpu: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    name = schema[: schema.index("(")]
    _library.define(schema, tags=_TAGS)
    _library.impl(name, cpu, "CPU")
    _library.impl(name, torch.library.fallthrough_kernel, "Autograd")

    def wrong_device(*args: Any, **kwargs: Any) -> NoReturn:
        devices = sorted({str(a.device) for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)})
        raise DeviceError(
            f"qgemm::{name} runs on the CPU and got tensors on {', '.join(devices)}: move the input and the layer with .cpu()"
        )

    def wrong_layout(*args: Any, **kwargs: Any) -> NoReturn:
        kinds = ", ".join(sorted({f"{a.dtype}, {a.layout}" for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)}))
        raise LayoutError(
            f"qgemm::{name} takes dense (strided) tensors of plain types, got {kinds}: call .to_dense() or .dequantize() first"
        )

    for backend in _FOREIGN_BACKENDS:
        _library.impl(name, wrong_device, backend)
    for backend in _FOREIGN_LAYOUTS:
        _library.impl(name, wrong_layout, backend)

    def checked_fake(*args: Any, **kwargs: Any) -> Any:
        # A meta weight with a CPU input is dispatched here, and would answer with uninitialized memory.
        if len({a.device for a in args if isinstance(a, torch.Tensor)}) > 1:
            wrong_device(*args, **kwargs)
        return fake(*args, **kwargs)

    torch.library.register_fake(f"qgemm::{name}", checked_fake, lib=_library)
    return getattr(torch.ops.qgemm, name).default


def _array(t: Any) -> Any:
    """The tensor's memory as a numpy array, no copy. Typed errors for what has none."""
    try:
        return t.numpy()
    except (RuntimeError, TypeError):
        if t.device.type != "cpu":
            raise DeviceError(f"a tensor on {t.device}: qgemm runs on the CPU; move it with .cpu()") from None
        try:
            return t.detach().resolve_conj().resolve_neg().numpy()
        except TypeError:
            raise DTypeError(f"a {t.dtype} tensor: qgemm takes float32 and 8/16-bit integers; convert it with .float()") from None


def _dense_order(t: Any) -> Sequence[int] | None:
    """The permutation under which ``t``, which is dense, is C-contiguous; None when it is as it stands."""
    if t.is_contiguous():
        return None
    if t.dim() == 4 and t.is_contiguous(memory_format=_NHWC):
        return (0, 2, 3, 1)
    return sorted(range(t.dim()), key=lambda d: (t.stride(d), t.shape[d]), reverse=True)


def _like(order: Sequence[int] | None, t: Any) -> Any:
    """``t`` as a C-contiguous array in ``order``; copied when it lies otherwise."""
    return _array(t.contiguous() if order is None else t.permute(*order).contiguous())


def _written(order: Sequence[int] | None, out: Any) -> Any:
    """The array behind a fresh ``out``, in ``order``: what an operator writes to. Never a copy."""
    a = _array(out)
    return a if order is None else a.transpose(order)


# ---- quantize, dequantize ---------------------------------------------------------------------------------------------------------


def _quantize(x, scale, zero_point, qmin, qmax, dtype, axis=-1):
    out = torch.empty_like(x, dtype=dtype)
    order = _dense_order(out)
    if order is not None:
        axis = list(order).index(axis % x.dim())
    _core.quantize(_like(order, x), _array(scale), _array(zero_point), qmin, qmax, _written(order, out), axis)
    return out


def _dequantize(q, scale, zero_point, axis=-1):
    out = torch.empty_like(q, dtype=torch.float32)
    order = _dense_order(out)
    if order is not None:
        axis = list(order).index(axis % q.dim())
    _core.dequantize(_like(order, q), _array(scale), _array(zero_point), _written(order, out), axis)
    return out


def _dynamic_shape(x, per_row):
    return x.shape[:-1] if per_row else (1,)


def _dynamic_outputs(x, per_row=True, symmetric=False):
    shape = _dynamic_shape(x, per_row)
    return (
        x.new_empty(x.shape, dtype=torch.uint8),
        x.new_empty(shape, dtype=torch.float32),
        x.new_empty(shape, dtype=torch.int32),
    )


def _quantize_dynamic(x, per_row=True, symmetric=False):
    out, scale, zero_point = _dynamic_outputs(x, per_row, symmetric)
    a = _array(x.contiguous())
    rows = _rows(a.shape, "quantize_dynamic") if per_row else 1
    columns = a.shape[-1] if per_row else a.size
    _core.quantize_dynamic(
        a.reshape(rows, columns),
        _array(out).reshape(rows, columns),
        _array(scale).reshape(-1),
        _array(zero_point).reshape(-1),
        per_row,
        symmetric,
    )
    return out, scale, zero_point


# ---- linear -----------------------------------------------------------------------------------------------------------------------


def _rows(shape, op):
    if len(shape) == 0:
        raise ShapeError(f"qgemm::{op}: the input has no dimensions; its last one must be the features")
    return math.prod(shape[:-1])


_TYPES = {torch.uint8: 0, torch.int8: 1, torch.int32: 2, torch.float32: 3}
_core.use_tensors_of(torch.Tensor)


def _linear(x, packed, out_features, dtype, out_scale=1.0, out_zero_point=0, lo=None, hi=None):
    code = _TYPES.get(dtype)
    if code is not None:
        out = _core.tensor_linear(x, packed, out_features, code, out_scale, out_zero_point, lo, hi)
        if out is not None:
            return out
    a = _array(x.contiguous())
    shape = a.shape
    rows = _rows(shape, "linear")
    out = x.new_empty((*shape[:-1], out_features), dtype=dtype)
    _core.linear(a.reshape(rows, shape[-1]), _array(packed), _array(out).reshape(rows, out_features), out_scale, out_zero_point, lo, hi)
    return out


def _linear_dynamic(x, packed, out_features, per_row=True, symmetric=False, lo=None, hi=None):
    if lo is None and hi is None and not x.is_neg():
        out = _core.tensor_linear_dynamic(x, packed, out_features, per_row, symmetric)
        if out is not None:
            return out
    a = _array(x.contiguous())
    shape = a.shape
    rows = _rows(shape, "linear_dynamic")
    out = x.new_empty((*shape[:-1], out_features))
    _core.linear_dynamic(a.reshape(rows, shape[-1]), _array(packed), out.numpy().reshape(rows, out_features), per_row, symmetric, lo, hi)
    return out


_is_compiling = torch.compiler.is_compiling
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_tracing_state = torch._C._get_tracing_state
_is_profiling = torch.autograd._profiler_enabled


def _unobserved():
    """True in plain eager mode, where nobody watches the dispatcher: no compiler, mode, tracer or profiler. Then the functions below call
    the kernel directly; the dispatcher's way to a Python implementation costs more than a small product. Tensors that are not what
    they seem (subclasses, those inside torch.func transforms) are not plain memory, and take the dispatcher's way by themselves."""
    return not _dispatch_modes() and not _function_modes() and _tracing_state() is None and not _is_profiling()


def linear(x, packed, out_features, dtype, out_scale=1.0, out_zero_point=0, lo=None, hi=None):
    """``torch.ops.qgemm.linear`` with the least overhead: uint8 ``x`` [..., K] times a packed weight -> ``dtype`` [..., N]."""
    if not _is_compiling() and _unobserved() and (code := _TYPES.get(dtype)) is not None:
        out = _core.tensor_linear(x, packed, out_features, code, out_scale, out_zero_point, lo, hi)
        if out is not None:
            return out
    return _linear_op(x, packed, out_features, dtype, out_scale, out_zero_point, lo, hi)


def linear_dynamic(x, packed, out_features, per_row=True, symmetric=False, lo=None, hi=None):
    """``torch.ops.qgemm.linear_dynamic`` with the least overhead: float32 ``x`` [..., K], quantized per row, -> float32 [..., N]."""
    if not _is_compiling() and lo is None and hi is None and _unobserved() and not x.is_neg():
        out = _core.tensor_linear_dynamic(x, packed, out_features, per_row, symmetric)
        if out is not None:
            return out
    return _linear_dynamic_op(x, packed, out_features, per_row, symmetric, lo, hi)


def _linear_fake(x, packed, out_features, dtype, *epilogue):
    return x.new_empty((*x.shape[:-1], out_features), dtype=dtype)


def _linear_dynamic_fake(x, packed, out_features, *options):
    return x.new_empty((*x.shape[:-1], out_features), dtype=torch.float32)


# ---- convolution, pooling -----------------------------------------------------------------------------------------------------------


def _out_sizes(op, sizes, kernel, stride, padding, dilation):
    """Output sizes of a sliding window. ``padding``: all starts, then all ends (top, left, bottom, right)."""
    n = len(kernel)
    if not len(sizes) == len(stride) == len(dilation) == n or len(padding) != 2 * n:
        raise ShapeError(
            f"qgemm::{op}: {len(sizes)} spatial dimensions need as many of kernel {tuple(kernel)}, stride {tuple(stride)} and "
            f"dilation {tuple(dilation)}, and twice as many of padding {tuple(padding)}"
        )
    if min(kernel) < 1 or min(stride) < 1 or min(dilation) < 1 or min(padding) < 0:
        raise ShapeError(
            f"qgemm::{op}: kernel {tuple(kernel)}, stride {tuple(stride)} and dilation {tuple(dilation)} must be at least 1, "
            f"padding {tuple(padding)} at least 0"
        )
    out = []
    for i in range(n):
        padded, window = sizes[i] + padding[i] + padding[n + i], dilation[i] * (kernel[i] - 1) + 1
        if isinstance(padded, int) and padded < window:
            raise ShapeError(f"qgemm::{op}: the window spans {window} positions and the padded input has {padded}, sizes {tuple(sizes)}")
        out.append((padded - window) // stride[i] + 1)
    return out


def _image(x, op, spatial):
    """Refuse what is not [B, C, *spatial]."""
    if x.dim() != 2 + spatial:
        raise ShapeError(f"qgemm::{op} takes an input of {2 + spatial} dimensions (batch, channels, ...), got {tuple(x.shape)}")


def _nhwc(x):
    """A [B, C, H, W] or [B, C, L] tensor as a C-contiguous [B, H, W, C] array (H = 1 for the latter)."""
    if x.dim() == 4:
        return _array(x.contiguous(memory_format=_NHWC)).transpose(0, 2, 3, 1)
    return _array(x.transpose(1, 2).contiguous())[:, None]


def _empty_nhwc(shape, dtype, device="cpu"):
    """An uninitialized tensor of logical ``shape`` ([B, C, H, W] or [B, C, L]) with the channels innermost in memory."""
    if len(shape) == 4:
        return torch.empty(shape, dtype=dtype, device=device, memory_format=_NHWC)
    return torch.empty((shape[0], shape[2], shape[1]), dtype=dtype, device=device).transpose(1, 2)


def _out_nhwc(out):
    return _array(out).transpose(0, 2, 3, 1) if out.dim() == 4 else _array(out).transpose(0, 2, 1)[:, None]


def _as_2d(stride, padding, dilation):
    if len(stride) == 2:
        return tuple(stride), tuple(padding), tuple(dilation)
    return (1, stride[0]), (0, padding[0], 0, padding[1]), (1, dilation[0])


def _conv(spatial, op):
    def conv(x, packed, out_channels, kernel_size, stride, padding, dilation, dtype, out_scale=1.0, out_zero_point=0, lo=None, hi=None):
        _image(x, op, spatial)
        sizes = _out_sizes(op, x.shape[2:], kernel_size, stride, padding, dilation)
        out = _empty_nhwc((x.shape[0], out_channels, *sizes), dtype)
        window = _as_2d(stride, padding, dilation)
        _core.conv2d(_nhwc(x), _array(packed), _out_nhwc(out), *window, out_scale, out_zero_point, lo, hi)
        return out

    return conv


def _conv_fake(spatial, op):
    def fake(x, packed, out_channels, kernel_size, stride, padding, dilation, dtype, *epilogue):
        _image(x, op, spatial)
        sizes = _out_sizes(op, x.shape[2:], kernel_size, stride, padding, dilation)
        return _empty_nhwc((x.shape[0], out_channels, *sizes), dtype, x.device)

    return fake


def _conv_dynamic(spatial, op):
    def conv(
        x,
        packed,
        out_channels,
        kernel_size,
        stride,
        padding,
        dilation,
        symmetric=False,
        channels_last=False,
        lo=None,
        hi=None,
    ):
        _image(x, op, spatial)
        sizes = _out_sizes(op, x.shape[2:], kernel_size, stride, padding, dilation)
        # Quantized in the layout it has; a change of layout then moves bytes, not floats.
        q = torch.empty_like(x, dtype=torch.uint8)
        order = _dense_order(q)
        scale, zero_point = np.empty(1, np.float32), np.empty(1, np.int32)
        count = x.numel()
        _core.quantize_dynamic(
            _like(order, x).reshape(1, count),
            _written(order, q).reshape(1, count),
            scale,
            zero_point,
            False,
            symmetric,
        )
        out = _empty_nhwc((x.shape[0], out_channels, *sizes), torch.float32)
        window = _as_2d(stride, padding, dilation)
        _core.conv2d(_nhwc(q), _array(packed), _out_nhwc(out), *window, 1.0, 0, lo, hi, scale.item(), zero_point.item())
        return out if channels_last else out.contiguous()

    return conv


def _conv_dynamic_fake(spatial, op):
    def fake(x, packed, out_channels, kernel_size, stride, padding, dilation, symmetric=False, channels_last=False, *bounds):
        _image(x, op, spatial)
        shape = (x.shape[0], out_channels, *_out_sizes(op, x.shape[2:], kernel_size, stride, padding, dilation))
        return _empty_nhwc(shape, torch.float32, x.device) if channels_last else x.new_empty(shape, dtype=torch.float32)

    return fake


def _max_pool2d(x, kernel_size, stride, padding, dilation=(1, 1)):
    _image(x, "max_pool2d", 2)
    sizes = _out_sizes("max_pool2d", x.shape[2:], kernel_size, stride, padding, dilation)
    out = _empty_nhwc((*x.shape[:2], *sizes), x.dtype)
    _core.max_pool2d(_nhwc(x), _out_nhwc(out), tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation))
    return out


def _max_pool2d_fake(x, kernel_size, stride, padding, dilation=(1, 1)):
    _image(x, "max_pool2d", 2)
    sizes = _out_sizes("max_pool2d", x.shape[2:], kernel_size, stride, padding, dilation)
    return _empty_nhwc((*x.shape[:2], *sizes), x.dtype, x.device)


def _avg_pool2d(
    x,
    kernel_size,
    stride,
    padding,
    count_include_pad,
    x_scale,
    x_zero_point,
    dtype,
    out_scale=1.0,
    out_zero_point=0,
    lo=None,
    hi=None,
):
    _image(x, "avg_pool2d", 2)
    sizes = _out_sizes("avg_pool2d", x.shape[2:], kernel_size, stride, padding, (1, 1))
    out = _empty_nhwc((*x.shape[:2], *sizes), dtype)
    _core.avg_pool2d(
        _nhwc(x),
        _out_nhwc(out),
        tuple(kernel_size),
        tuple(stride),
        tuple(padding),
        count_include_pad,
        x_scale,
        x_zero_point,
        out_scale,
        out_zero_point,
        lo,
        hi,
    )
    return out


def _avg_pool2d_fake(x, kernel_size, stride, padding, count_include_pad, x_scale, x_zero_point, dtype, *epilogue):
    _image(x, "avg_pool2d", 2)
    sizes = _out_sizes("avg_pool2d", x.shape[2:], kernel_size, stride, padding, (1, 1))
    return _empty_nhwc((*x.shape[:2], *sizes), dtype, x.device)


# ---- elementwise ------------------------------------------------------------------------------------------------------------------


def _add(a, b, a_scale, a_zero_point, b_scale, b_zero_point, out_scale, out_zero_point, lo=None, hi=None):
    if a.shape != b.shape:
        raise ShapeError(f"qgemm::add: the operands are {tuple(a.shape)} and {tuple(b.shape)}; they must be of one shape")
    out = torch.empty_like(a)
    order = _dense_order(out)
    _core.add(
        _like(order, a),
        _like(order, b),
        _written(order, out),
        a_scale,
        a_zero_point,
        b_scale,
        b_zero_point,
        out_scale,
        out_zero_point,
        lo,
        hi,
    )
    return out


def _lut(x, table):
    out = torch.empty_like(x)
    order = _dense_order(out)
    _core.lut(_like(order, x), _array(table), _written(order, out))
    return out


# ---- registration -------------------------------------------------------------------------------------------------------------------

_EPILOGUE = "ScalarType dtype, float out_scale=1.0, int out_zero_point=0, float? lo=None, float? hi=None"
_WINDOW = "Tensor packed, int out_channels, int[] kernel_size, int[] stride, int[] padding, int[] dilation"

quantize = _register(
    "quantize(Tensor x, Tensor scale, Tensor zero_point, int qmin, int qmax, ScalarType dtype, int axis=-1) -> Tensor",
    _quantize,
    lambda x, scale, zero_point, qmin, qmax, dtype, axis=-1: torch.empty_like(x, dtype=dtype),
)
dequantize = _register(
    "dequantize(Tensor q, Tensor scale, Tensor zero_point, int axis=-1) -> Tensor",
    _dequantize,
    lambda q, scale, zero_point, axis=-1: torch.empty_like(q, dtype=torch.float32),
)
quantize_dynamic = _register(
    "quantize_dynamic(Tensor x, bool per_row=True, bool symmetric=False) -> (Tensor, Tensor, Tensor)",
    _quantize_dynamic,
    _dynamic_outputs,
)
_linear_op = _register(f"linear(Tensor x, Tensor packed, int out_features, {_EPILOGUE}) -> Tensor", _linear, _linear_fake)
_linear_dynamic_op = _register(
    "linear_dynamic(Tensor x, Tensor packed, int out_features, bool per_row=True, bool symmetric=False, "
    "float? lo=None, float? hi=None) -> Tensor",
    _linear_dynamic,
    _linear_dynamic_fake,
)
conv2d = _register(f"conv2d(Tensor x, {_WINDOW}, {_EPILOGUE}) -> Tensor", _conv(2, "conv2d"), _conv_fake(2, "conv2d"))
conv1d = _register(f"conv1d(Tensor x, {_WINDOW}, {_EPILOGUE}) -> Tensor", _conv(1, "conv1d"), _conv_fake(1, "conv1d"))
_DYNAMIC = "bool symmetric=False, bool channels_last=False, float? lo=None, float? hi=None"
conv2d_dynamic = _register(
    f"conv2d_dynamic(Tensor x, {_WINDOW}, {_DYNAMIC}) -> Tensor",
    _conv_dynamic(2, "conv2d_dynamic"),
    _conv_dynamic_fake(2, "conv2d_dynamic"),
)
conv1d_dynamic = _register(
    f"conv1d_dynamic(Tensor x, {_WINDOW}, {_DYNAMIC}) -> Tensor",
    _conv_dynamic(1, "conv1d_dynamic"),
    _conv_dynamic_fake(1, "conv1d_dynamic"),
)
max_pool2d = _register(
    "max_pool2d(Tensor x, int[] kernel_size, int[] stride, int[] padding, int[] dilation=[1, 1]) -> Tensor", _max_pool2d, _max_pool2d_fake
)
avg_pool2d = _register(
    "avg_pool2d(Tensor x, int[] kernel_size, int[] stride, int[] padding, bool count_include_pad, float x_scale, int x_zero_point, "
    f"{_EPILOGUE}) -> Tensor",
    _avg_pool2d,
    _avg_pool2d_fake,
)
add = _register(
    "add(Tensor a, Tensor b, float a_scale, int a_zero_point, float b_scale, int b_zero_point, float out_scale, int out_zero_point, "
    "int? lo=None, int? hi=None) -> Tensor",
    _add,
    lambda a, *rest: torch.empty_like(a),
)
lut = _register("lut(Tensor x, Tensor table) -> Tensor", _lut, lambda x, table: torch.empty_like(x))
