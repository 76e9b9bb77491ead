"""``torch.ops.qgemm.*``: the engine's operations as PyTorch operators. Importing this module registers them.

    q = torch.ops.qgemm.quantize(x, scale, zero_point, 0, 255, torch.uint8)
    y = torch.ops.qgemm.linear(q, packed, out_features, torch.float32)

=================== ======================================================================= =========================================
quantize            float32 of any shape; scale float32 and zero_point int32, [1] or [C]    uint8, int8, uint16 or int16, same shape
dequantize          8- or 16-bit integers of any shape; scale and zero_point as above       float32, same shape
quantize_dynamic    float32 [..., K]                                                        uint8 [..., K], scale, zero_point: [...] or [1]
linear              uint8 or int8 [..., K], packed                                          dtype [..., N]
linear_dynamic      float32 [..., K], packed                                                float32 [..., N]
linear_quantized    uint8 [..., K], scale, zero_point as from quantize_dynamic; packed      float32 [..., N]
linear16            uint16 or int16 [..., K], packed; its scale and zero point              float32, (u)int8 or (u)int16 [..., N]
matmul              uint8 or int8 [..., M, K] and [..., K, N]                               dtype [..., M, N]
conv2d              uint8 [B, C, H, W], packed                                              dtype [B, Cout, HO, WO], channels_last
conv2d_dynamic      float32 [B, C, H, W], packed; one encoding for the whole tensor         float32 [B, Cout, HO, WO]
conv1d, _dynamic    the same with [B, C, L]
conv3d, _dynamic    the same with [B, C, D, H, W], packed by pack_conv3d                    channels_last_3d
conv_transpose2d    uint8 [B, C, H, W], packed by pack_conv_transpose2d                     dtype [B, Cout, HO, WO], channels_last
 ... _dynamic       float32 [B, C, H, W]; conv_transpose1d and 1d_dynamic take [B, C, L]    float32 [B, Cout, HO, WO]
max_pool2d          uint8 [B, C, H, W]                                                      uint8, channels_last
avg_pool2d          uint8 [B, C, H, W]                                                      dtype, channels_last
adaptive_avg_pool2d uint8 [B, C, H, W], whose sides are multiples of output_size            dtype, channels_last
resize_nearest      uint8 [B, C, H, W]; as interpolate(mode="nearest")                      uint8 [B, C, *size], channels_last
resize_linear       uint8 [B, C, H, W]; as interpolate(mode="bilinear")                     uint8 [B, C, *size], channels_last
pad2d               uint8 [B, C, H, W]; padding (top, left, bottom, right), value           uint8, channels_last
pixel_shuffle       uint8 [B, C * r^2, H, W]                                                uint8 [B, C, H * r, W * r], channels_last
pixel_unshuffle     uint8 [B, C, H * r, W * r]                                              uint8 [B, C * r^2, H, W], channels_last
channel_shuffle     uint8 [B, C, H, W], groups                                              uint8, channels_last
add, mul            two uint8 of one shape, or [B, C, H, W] and [B, C, 1, 1]                uint8, the first one's shape
lut                 uint8 of any shape, table uint8 [256]                                   uint8, same shape
=================== ======================================================================= =========================================

``dtype``: uint8 or int8 (requantized with out_scale and out_zero_point), float32, or int32 (the accumulator). ``lo`` and ``hi`` bound the
output, on its own grid: ReLU is ``lo = out_zero_point`` for integers, ``lo = 0`` for floats. ``padding``: all starts, then all ends, so
(left, right) for conv1d and (top, left, bottom, right) for conv2d (torch's ceil_mode of a pool is more of it at the end); a transposed
convolution cuts it from its result. ``packed``: a 1-D uint8 tensor from ``qgemm._core.pack_linear``, ``pack_conv2d``, ``pack_conv3d`` or
``pack_conv_transpose2d``; the sizes that a shape function needs (out_features, out_channels, kernel_size) are given beside it.
docs/numerics.md has the arithmetic.

An int8 input of linear is the uint8 one minus 128: its zero point plus 128 is what the weight is packed with. The functions
``qgemm.ops.linear``, ``linear_dynamic`` and ``matmul`` are the operators without the dispatcher, in plain eager mode; what watches it
(a compiler, tracer, mode or profiler) sees the operators.

quantize_dynamic and linear_quantized are the halves of linear_dynamic, with its bits, for several layers that read one input.
linear16 and matmul are exact: 64-bit sums of 16-bit activations, and the product of two activations, each on its own grid (one scale and
zero point). The leading dimensions of matmul's operands broadcast as those of torch.matmul.

Every operator is one node under ``torch.compile`` and ``torch.export`` and traces with dynamic sizes.

Layout. Logical shapes are PyTorch's. Convolutions and pools compute in NHWC: a ``channels_last`` input is used where it lies, any other
is first copied to that layout. Elementwise operators keep the layout of their first input. Matrices of matmul may be transposed in
memory (``k.transpose(-1, -2)`` of a contiguous ``k``). Other non-contiguous inputs are copied.

Gradients. The operators take tensors that require grad, and their results do not require grad, as with ``torch.argmax``.

Errors, all of :mod:`qgemm.errors`: DTypeError, ShapeError, LayoutError (sparse, mkldnn and torch-quantized tensors), DeviceError (not on
the CPU; meta tensors give meta results), QuantizationError (scales, zero points and bounds with no meaning; NaN or infinity met by a
dynamic operator), PackedWeightError.
"""

from __future__ import annotations

from ..errors import require

require("torch", "qgemm.ops")

from ._conv import avg_pool2d, conv1d, conv1d_dynamic, conv2d, conv2d_dynamic, max_pool2d  # noqa: E402
from ._conv_more import (  # noqa: E402
    conv3d,
    conv3d_dynamic,
    conv_transpose1d,
    conv_transpose1d_dynamic,
    conv_transpose2d,
    conv_transpose2d_dynamic,
)
from ._elementwise import add, dequantize, lut, mul, quantize, quantize_dynamic  # noqa: E402
from ._images import (  # noqa: E402
    adaptive_avg_pool2d,
    channel_shuffle,
    pad2d,
    pixel_shuffle,
    pixel_unshuffle,
    resize_linear,
    resize_nearest,
)
from ._linear import linear, linear16, linear_dynamic, linear_quantized, matmul  # noqa: E402

__all__ = [
    "adaptive_avg_pool2d",
    "add",
    "avg_pool2d",
    "channel_shuffle",
    "conv1d",
    "conv1d_dynamic",
    "conv2d",
    "conv2d_dynamic",
    "conv3d",
    "conv3d_dynamic",
    "conv_transpose1d",
    "conv_transpose1d_dynamic",
    "conv_transpose2d",
    "conv_transpose2d_dynamic",
    "dequantize",
    "linear",
    "linear16",
    "linear_dynamic",
    "linear_quantized",
    "lut",
    "matmul",
    "max_pool2d",
    "mul",
    "pad2d",
    "pixel_shuffle",
    "pixel_unshuffle",
    "quantize",
    "quantize_dynamic",
    "resize_linear",
    "resize_nearest",
]
