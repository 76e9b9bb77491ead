"""The C++ engine. Private: the public names are in qgemm, qgemm.nn and torch.ops.qgemm.

Arrays are numpy, C-contiguous, and never copied or converted here: a wrong dtype, rank, shape or stride is a typed error of
qgemm.errors. Outputs are written into ``out``, which must not overlap an input. The GIL is released while kernels run.
Any dimension may be 0. ``packed`` is a 1-D uint8 buffer made by ``pack_*``; it is self-describing and position independent.

Output type: the dtype of ``out``.
  uint8 / int8   requantized: q = clamp(rint(y * (1/out_scale)) + out_zero_point, lo, hi), y the float output
  float32        y = fmaf(float(acc), x_scale * w_scale[n], bias[n]), clamped to [lo, hi]
  int32          the exact accumulator sum((xq - zx) * (wq - zw)) (+ int32 bias); lo/hi do not apply
``lo`` and ``hi``: None, or bounds. For uint8/int8 they are integers on the output's grid (ReLU is lo = out_zero_point).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str

# ---- CPU and dispatch -------------------------------------------------------------------------------------------------
def cpu_features() -> dict[str, bool]: ...
def isas() -> list[str]: ...  # every ISA path of this build, best first: ["avx512vnni", "avx2", "ref"]
def available_isas() -> list[str]: ...  # those this CPU can run, best first
def active_isa() -> str: ...
def force_isa(name: str | None) -> None: ...  # None: back to QGEMM_ISA or the best. IsaError if the CPU lacks it
def kernels() -> list[dict[str, Any]]: ...  # rows of kernels.def: op, types, mr, nr, isa, name, available, selected
def explain() -> str: ...  # the dispatch table's own reasoning, several lines
def max_threads() -> int: ...  # what the next call will use at most (omp_get_max_threads)

# ---- quantize ---------------------------------------------------------------------------------------------------------
# scale: float32 [1] or [C]; zero_point: int32 [1] or [C]; C = x.shape[axis]. out dtype uint8, int8, uint16 or int16.
def quantize(
    x: NDArray[np.float32],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int32],
    qmin: int,
    qmax: int,
    out: NDArray[Any],
    axis: int = -1,
) -> None: ...
def dequantize(
    q: NDArray[Any], scale: NDArray[np.float32], zero_point: NDArray[np.int32], out: NDArray[np.float32], axis: int = -1
) -> None: ...

# One (scale, zero_point) a row of x [M, K] (per_row), or one for all (then scale, zero_point have 1 element). out: uint8 [M, K].
# Asymmetric: min/max with 0 included, scale = (max - min) / 255, zero_point = rint(-min / scale). Symmetric: absmax / 127, zero_point 128.
# A row of zeros has scale 1; a scale is never below the smallest normal float32. NaN/Inf in x: QuantizationError.
def quantize_dynamic(
    x: NDArray[np.float32],
    out: NDArray[np.uint8],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int32],
    per_row: bool,
    symmetric: bool = False,
) -> None: ...

# Two values a byte along the last axis, low nibble first; odd length: the last high nibble is 0.
def pack_int4(values: NDArray[Any]) -> NDArray[np.uint8]: ...  # int8 in [-8, 7] or uint8 in [0, 15]
def unpack_int4(packed: NDArray[np.uint8], length: int, signed: bool) -> NDArray[Any]: ...

# ---- weights ----------------------------------------------------------------------------------------------------------
# weight int8 [N, K] (values of s4 for bits=4); scale float32 [1], [N], or [N, ceil(K/group_size)] with group_size > 0.
# zero_point: int32 [N] or None (0). bias float32 [N] or None. bias_int32: int32 [N] or None, joins the accumulator.
# x_scale, x_zero_point: the static u8 input's encoding; leave 1.0, 0 for the dynamic ops.
# name: for error messages.
def pack_linear(
    weight: NDArray[np.int8],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int32] | None = None,
    bias: NDArray[np.float32] | None = None,
    bias_int32: NDArray[np.int32] | None = None,
    bits: int = 8,
    group_size: int = 0,
    x_scale: float = 1.0,
    x_zero_point: int = 0,
    name: str = "",
) -> NDArray[np.uint8]: ...

# weight int8 [Cout, Cin/groups, KH, KW]; Conv1d is KH = 1. Depthwise (Cin/groups == 1, Cout == groups) gets its own layout.
def pack_conv2d(
    weight: NDArray[np.int8],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int32] | None = None,
    bias: NDArray[np.float32] | None = None,
    bias_int32: NDArray[np.int32] | None = None,
    groups: int = 1,
    bits: int = 8,
    x_scale: float = 1.0,
    x_zero_point: int = 0,
    name: str = "",
) -> NDArray[np.uint8]: ...

# weight int8 [Cin, Cout/groups, KH, KW] of a transposed convolution, split for its stride and dilation; scale, zero_point, bias: [Cout].
def pack_conv_transpose2d(
    weight: NDArray[np.int8],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int32] | None = None,
    bias: NDArray[np.float32] | None = None,
    bias_int32: NDArray[np.int32] | None = None,
    groups: int = 1,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    bits: int = 8,
    x_scale: float = 1.0,
    x_zero_point: int = 0,
    name: str = "",
) -> NDArray[np.uint8]: ...

# weight int8 [Cout, Cin/groups, KD, KH, KW].
def pack_conv3d(
    weight: NDArray[np.int8],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int32] | None = None,
    bias: NDArray[np.float32] | None = None,
    bias_int32: NDArray[np.int32] | None = None,
    groups: int = 1,
    bits: int = 8,
    x_scale: float = 1.0,
    x_zero_point: int = 0,
    name: str = "",
) -> NDArray[np.uint8]: ...
def packed_info(packed: NDArray[np.uint8]) -> dict[str, Any]: ...  # kind, n, k, groups, taps, bits, group_size, bytes, kernel
def unpack_weight(packed: NDArray[np.uint8]) -> NDArray[np.int8]: ...  # the canonical ints back

# ---- GEMM / Linear ----------------------------------------------------------------------------------------------------
# x uint8 [M, K] -> out [M, N]. x may have a row stride > K (last axis contiguous); so may out.
# int8 x is read as uint8 with 128 added: pack the weight with x_zero_point = its zero point + 128.
def linear(
    x: NDArray[Any],
    packed: NDArray[np.uint8],
    out: NDArray[Any],
    out_scale: float = 1.0,
    out_zero_point: int = 0,
    lo: float | None = None,
    hi: float | None = None,
) -> None: ...

# 16-bit activations, exact: acc = sum((xq - zx) * (wq - zw)) in fp64 below 2^53, y = fmaf(float(acc), x_scale * w_scale[n], bias[n]).
# x uint16 or int16 [M, K]; packed with the default encoding; out float32, uint8, int8, uint16 or int16 [M, N]. Zero points, lo and hi are
# on the grid of their tensor's dtype.
def linear16(
    x: NDArray[Any],
    packed: NDArray[np.uint8],
    out: NDArray[Any],
    x_scale: float,
    x_zero_point: int,
    out_scale: float = 1.0,
    out_zero_point: int = 0,
    lo: float | None = None,
    hi: float | None = None,
) -> None: ...

# Activation by activation. a [..., M, K] (transpose_a: [..., K, M]), b [..., K, N] (transpose_b: [..., N, K]), each uint8 or int8 with its
# zero point on its own grid, C-contiguous, same leading dimensions; out [..., M, N] uint8, int8, int32 or float32.
def matmul(
    a: NDArray[Any],
    b: NDArray[Any],
    out: NDArray[Any],
    a_scale: float,
    a_zero_point: int,
    b_scale: float,
    b_zero_point: int,
    out_scale: float = 1.0,
    out_zero_point: int = 0,
    lo: float | None = None,
    hi: float | None = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> None: ...

# x float32 [M, K] is quantized per row (or per tensor) on the fly; out float32 [M, N].
def linear_dynamic(
    x: NDArray[np.float32],
    packed: NDArray[np.uint8],
    out: NDArray[np.float32],
    per_row: bool = True,
    symmetric: bool = False,
    lo: float | None = None,
    hi: float | None = None,
) -> None: ...

# Rows quantized before (quantize_dynamic): q uint8 [M, K], scale float32 [M], zero_point int32 [M] -> out float32 [M, N]. With the scale
# and zero point of linear_dynamic, its bits. packed with the default encoding. q and out may have a row stride.
def linear_rows(
    q: NDArray[np.uint8],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int32],
    packed: NDArray[np.uint8],
    out: NDArray[np.float32],
    lo: float | None = None,
    hi: float | None = None,
) -> None: ...

# ---- PyTorch tensors, through the DLPack C exchange API ----------------------------------------------------------------
# use_tensors_of takes the API that torch.Tensor publishes; False when it has none. dtypes: uint8, int8, int32, float32; watchers:
# functions that are true while somebody watches torch's dispatcher; flags: dictionaries and keys whose values are; is_negated:
# torch.Tensor.is_neg. The others answer None for what is not plain: a subclass, another dtype or device, not C-contiguous (matrices of
# matmul: neither rows nor columns contiguous), no API; and eager_* also while the dispatcher is watched. packed: a uint8 tensor. dtype:
# one of the four.
def use_tensors_of(
    type: type, dtypes: tuple[Any, ...], watchers: tuple[Any, ...], flags: tuple[tuple[dict[str, Any], str], ...], is_negated: Any
) -> bool: ...
def tensor_linear(
    x: Any, packed: Any, n: int, dtype: Any, out_scale: float, out_zero_point: int, lo: float | None, hi: float | None, /
) -> Any | None: ...
def tensor_linear_dynamic(
    x: Any, packed: Any, n: int, per_row: bool, symmetric: bool, lo: float | None, hi: float | None, /
) -> Any | None: ...
def tensor_matmul(
    a: Any,
    b: Any,
    a_scale: float,
    a_zero_point: int,
    b_scale: float,
    b_zero_point: int,
    dtype: Any,
    out_scale: float,
    out_zero_point: int,
    lo: float | None,
    hi: float | None,
    /,
) -> Any | None: ...

eager_linear = tensor_linear
eager_linear_dynamic = tensor_linear_dynamic
eager_matmul = tensor_matmul

# x float32 [..., K] quantized with scale float32 [1] and zero_point int32 [1], then the product: float32 [..., n].
def eager_linear_static(x: Any, scale: Any, zero_point: Any, packed: Any, n: int, /) -> Any | None: ...

# x uint8 [B, C, L] or [B, C, H, W] with the channels innermost -> `dtype` [B, n, ...] in the same order.
def tensor_conv2d(
    x: Any,
    packed: Any,
    n: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    dtype: Any,
    out_scale: float,
    out_zero_point: int,
    lo: float | None,
    hi: float | None,
    /,
) -> Any | None: ...

tensor_conv1d = tensor_conv2d
eager_conv1d = tensor_conv2d
eager_conv2d = tensor_conv2d

# ---- convolution ------------------------------------------------------------------------------------------------------
# x uint8 [B, H, W, C] (NHWC), out [B, HO, WO, Cout]. padding = (top, left, bottom, right). Padding value: the input's zero point.
# x_scale/x_zero_point override what was packed (dynamic quantization per tensor).
def conv2d(
    x: NDArray[np.uint8],
    packed: NDArray[np.uint8],
    out: NDArray[Any],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    out_scale: float = 1.0,
    out_zero_point: int = 0,
    lo: float | None = None,
    hi: float | None = None,
    x_scale: float | None = None,
    x_zero_point: int | None = None,
) -> None: ...

# x [B, R, C] uint8, int8, int32 or float32 -> out [B, C, R] of the same type. NCHW to NHWC: R = channels, C = H * W; and back.
def transpose(x: NDArray[Any], out: NDArray[Any]) -> None: ...

# ---- elementwise, tables, pooling ---------------------------------------------------------------------------------------
# a, b, out uint8 of one shape. y = a_scale*(a - a_zp) + b_scale*(b - b_zp), each product and the sum rounded to fp32; requantized.
def add(
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    out: NDArray[np.uint8],
    a_scale: float,
    a_zero_point: int,
    b_scale: float,
    b_zero_point: int,
    out_scale: float,
    out_zero_point: int,
    lo: int | None = None,
    hi: int | None = None,
) -> None: ...
def mul(
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    out: NDArray[np.uint8],
    a_scale: float,
    a_zero_point: int,
    b_scale: float,
    b_zero_point: int,
    out_scale: float,
    out_zero_point: int,
    lo: int | None = None,
    hi: int | None = None,
) -> None: ...
def lut(x: NDArray[np.uint8], table: NDArray[np.uint8], out: NDArray[np.uint8]) -> None: ...  # table uint8 [256]

# x uint8 [B, H, W, C] -> out [B, HO, WO, C]: out[:, y, x] = x[:, ys[y], xs[x]].
def resize_nearest(x: NDArray[np.uint8], out: NDArray[np.uint8], ys: NDArray[np.int32], xs: NDArray[np.int32]) -> None: ...

# The same between the inputs lo and hi of either axis, t of the way.
def resize_linear(
    x: NDArray[np.uint8],
    out: NDArray[np.uint8],
    y_lo: NDArray[np.int32],
    y_hi: NDArray[np.int32],
    y_t: NDArray[np.float32],
    x_lo: NDArray[np.int32],
    x_hi: NDArray[np.int32],
    x_t: NDArray[np.float32],
    x_scale: float,
    x_zero_point: int,
    out_scale: float,
    out_zero_point: int,
    lo: float | None = None,
    hi: float | None = None,
) -> None: ...

# NHWC floats -> out float32 or uint8 [B, HO, WO, N]. packed: qgemm.graph.floatlayers.pack of the weight. padding: (top, left, bottom,
# right). The sum is product's, over the taps and the channels of a group; lo and hi bound it.
def conv2d_f32(
    x: NDArray[np.float32],
    packed: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    out: NDArray[Any],
    kernel: tuple[int, int],
    groups: int,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    out_scale: float = 1.0,
    out_zero_point: int = 0,
    lo: float | None = None,
    hi: float | None = None,
) -> None: ...

# NHWC floats -> out float32 or uint8. NaN passes, padding never wins; a window of nothing else gives -infinity.
def max_pool2d_f32(
    x: NDArray[np.float32],
    out: NDArray[Any],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int] = (1, 1),
    out_scale: float = 1.0,
    out_zero_point: int = 0,
    lo: float | None = None,
    hi: float | None = None,
) -> None: ...

# The same for means, summed in float64; count_include_pad: whether padding counts.
def avg_pool2d_f32(
    x: NDArray[np.float32],
    out: NDArray[Any],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    count_include_pad: bool,
    out_scale: float = 1.0,
    out_zero_point: int = 0,
    lo: float | None = None,
    hi: float | None = None,
) -> None: ...

# x [outer, N, inner] -> out [outer, inner]. kind: 0 mean, 1 sum, 2 sum of squares, 3 maximum; summed in float64.
def reduce_f32(x: NDArray[np.float32], out: NDArray[np.float32], kind: int) -> None: ...

# x uint8 [B, H, W, C] with pixels of `value` around it. padding: (top, left, bottom, right).
def pad_image(x: NDArray[np.uint8], out: NDArray[np.uint8], padding: tuple[int, int, int, int], value: int) -> None: ...

# x uint8 [B, H, W, C] -> out [B, H * block, W * block, C / block^2]. channels_first: torch's pixel_shuffle, ONNX's CRD; else DCR.
def depth_to_space(x: NDArray[np.uint8], out: NDArray[np.uint8], block: int, channels_first: bool) -> None: ...

# Its inverse: x uint8 [B, H, W, C] -> out [B, H / block, W / block, C * block^2]. channels_first: torch's pixel_unshuffle.
def space_to_depth(x: NDArray[np.uint8], out: NDArray[np.uint8], block: int, channels_first: bool) -> None: ...

# out[..., j] = x[..., index[j]]; index int32 [C].
def permute_channels(x: NDArray[np.uint8], out: NDArray[np.uint8], index: NDArray[np.int32]) -> None: ...

# x uint8 [B, H, W, C] -> out [B, HO, WO, Cout]; stride and dilation are those of the packing. padding is cut from the result.
def conv_transpose2d(
    x: NDArray[np.uint8],
    packed: NDArray[np.uint8],
    out: NDArray[Any],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    output_padding: tuple[int, int],
    dilation: tuple[int, int],
    out_scale: float = 1.0,
    out_zero_point: int = 0,
    lo: float | None = None,
    hi: float | None = None,
    x_scale: float | None = None,
    x_zero_point: int | None = None,
) -> None: ...

# x uint8 [B, D, H, W, C] -> out [B, DO, HO, WO, Cout]. padding: (front, top, left, back, bottom, right).
def conv3d(
    x: NDArray[np.uint8],
    packed: NDArray[np.uint8],
    out: NDArray[Any],
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    padding: tuple[int, int, int, int, int, int],
    dilation: tuple[int, int, int],
    out_scale: float = 1.0,
    out_zero_point: int = 0,
    lo: float | None = None,
    hi: float | None = None,
    x_scale: float | None = None,
    x_zero_point: int | None = None,
) -> None: ...

# NHWC. padding (top, left, bottom, right); padded positions never win, and a window of nothing else gives 0. out [B, HO, WO, C].
# A window that does not fit the padded input gives no output rows, here as in conv2d: HO or WO is 0.
def max_pool2d(
    x: NDArray[np.uint8],
    out: NDArray[np.uint8],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int] = (1, 1),
) -> None: ...

# y = float(sum(q - zx)) * float(x_scale / count); out uint8 (requantized) or float32. Global average: kernel = (H, W).
def avg_pool2d(
    x: NDArray[np.uint8],
    out: NDArray[Any],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    count_include_pad: bool,
    x_scale: float,
    x_zero_point: int,
    out_scale: float = 1.0,
    out_zero_point: int = 0,
    lo: float | None = None,
    hi: float | None = None,
) -> None: ...

# ---- rows: softmax and the normalizations --------------------------------------------------------------------------------
# x uint8 on the grid (x_scale, x_zero_point), or float32; out uint8, int8 or float32 of its shape. The result is that of the float32
# operation on the numbers x stands for, rounded to out's grid; lo and hi are for a grid only. NaN becomes the zero point.
# y = exp(x + mask - max) / sum along the last axis. mask: float32 of x's shape, strides of 0 allowed (numpy.broadcast_to).
def softmax(
    x: NDArray[Any],
    out: NDArray[Any],
    mask: NDArray[np.float32] | None = None,
    x_scale: float = 1.0,
    x_zero_point: int = 0,
    out_scale: float = 1.0,
    out_zero_point: int = 0,
    lo: float | None = None,
    hi: float | None = None,
) -> None: ...

# Products of floats. pack_floats: b is [K, N], transposed: [N, K]. out: float32 or uint8.
def pack_floats(b: NDArray[np.float32], transposed: bool = False) -> NDArray[np.float32]: ...
def product(
    a: NDArray[np.float32],
    packed: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    out: NDArray[Any],
    out_scale: float = 1.0,
    out_zero_point: int = 0,
    lo: float | None = None,
    hi: float | None = None,
) -> None: ...
def matmul_floats(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    out: NDArray[Any],
    out_scale: float = 1.0,
    out_zero_point: int = 0,
    lo: float | None = None,
    hi: float | None = None,
    b_transposed: bool = False,
) -> None: ...

# LayerNorm along the last axis; center=False: RMSNorm. gamma, beta: float32 [x.shape[-1]], None for 1 and 0.
def norm(
    x: NDArray[Any],
    out: NDArray[Any],
    gamma: NDArray[np.float32] | None = None,
    beta: NDArray[np.float32] | None = None,
    epsilon: float = 1e-5,
    center: bool = True,
    x_scale: float = 1.0,
    x_zero_point: int = 0,
    out_scale: float = 1.0,
    out_zero_point: int = 0,
    lo: float | None = None,
    hi: float | None = None,
) -> None: ...

# ---- whole networks -----------------------------------------------------------------------------------------------------
# A place is (buffer, byte offset). Operations are added in order; `step` says to which step the next ones belong. Each names the driver
# of the same name; floats: float32 output, otherwise uint8 on the grid of (scale, zero_point). finish() plans the arena.
_Place = tuple[int, int]
_Four = tuple[int, int, int, int]
_Two = tuple[int, int]

# batches: (step, 0, 0), or (near, count, far): matrix i begins at i // count * far + i % count * near. In elements, like ld.
class ProgramMatrix:
    def __init__(
        self,
        at: _Place,
        batches: tuple[int, int, int],
        ld: int,
        transposed: bool = False,
        scale: float = 1.0,
        zero_point: int = 0,
    ) -> None: ...

class ProgramFrame:
    """The memory of one run. It goes back to its program when it is dropped."""

    def bind(self, buffer: int, array: NDArray[Any]) -> None: ...
    def view(self, place: _Place, shape: Sequence[int], strides: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]: ...
    def run(self, begin: int, end: int, seconds: NDArray[np.float64] | None = None) -> None: ...

class ProgramBuilder:
    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def arena(self, bytes: int) -> int: ...
    def constant(self, array: NDArray[Any]) -> int: ...
    def input(self, dtype: np.dtype[Any], memory: Sequence[int], order: Sequence[int]) -> int: ...
    def output(self, index: int, dtype: np.dtype[Any], memory: Sequence[int], order: Sequence[int]) -> int: ...
    def step(self, index: int, layer: str) -> None: ...
    def island(self, uses: Sequence[int]) -> int: ...
    def use(self, op: int, buffer: int) -> None: ...
    def truncate(self, count: int) -> None: ...
    def begin_loop(self, times: int) -> None: ...
    def advance(self, buffer: int, step: int) -> bool: ...
    def end_loop(self) -> None: ...
    def linear(self, x: _Place, y: _Place, packed: NDArray[np.uint8], rows: int, *output: Any) -> None: ...
    def linear16(
        self, x: _Place, y: _Place, packed: NDArray[np.uint8], rows: int, x_scale: float, x_zero_point: int, *output: Any
    ) -> None: ...
    def conv2d(
        self, x: _Place, y: _Place, packed: NDArray[np.uint8], shape: _Four, stride: _Two, padding: _Four, dilation: _Two, *output: Any
    ) -> None: ...
    # x_stride, out_stride: from pixel to pixel; 0 where pixels lie side by side.
    def max_pool2d(
        self, x: _Place, y: _Place, shape: _Four, kernel: _Two, stride: _Two, padding: _Four, dilation: _Two, x_stride: int = 0,
        out_stride: int = 0
    ) -> None: ...  # fmt: skip
    def avg_pool2d(
        self, x: _Place, y: _Place, shape: _Four, kernel: _Two, stride: _Two, padding: _Four, count_include_pad: bool, x_scale: float,
        x_zero_point: int, *output: Any
    ) -> None: ...  # fmt: skip
    # rows of n bytes, ld bytes apart in a, b and y; `repeat` consecutive ones share a row of b, which may be written over with over_b
    # (then repeat is 1).
    def add(
        self, a: _Place, b: _Place, y: _Place, rows: int, n: int, repeat: int, ld: tuple[int, int, int], a_scale: float,
        a_zero_point: int, b_scale: float, b_zero_point: int, scale: float, zero_point: int, lo: float | None, hi: float | None,
        over_b: bool
    ) -> None: ...  # fmt: skip
    def mul(
        self, a: _Place, b: _Place, y: _Place, rows: int, n: int, repeat: int, ld: tuple[int, int, int], a_scale: float,
        a_zero_point: int, b_scale: float, b_zero_point: int, scale: float, zero_point: int, lo: float | None, hi: float | None,
        over_b: bool
    ) -> None: ...  # fmt: skip
    def conv_transpose2d(
        self, x: _Place, y: _Place, packed: NDArray[np.uint8], shape: _Four, padding: _Four, output_padding: _Two, *output: Any
    ) -> None: ...
    def conv2d_f32(
        self, x: _Place, y: _Place, packed: NDArray[np.float32], bias: NDArray[np.float32] | None, shape: _Four, n: int, groups: int,
        kernel: _Two, stride: _Two, padding: _Four, dilation: _Two, *output: Any
    ) -> None: ...  # fmt: skip
    # average: whether padding counts; None: the maximum
    def pool2d_f32(
        self, x: _Place, y: _Place, shape: _Four, kernel: _Two, stride: _Two, padding: _Four, dilation: _Two, average: bool | None,
        *output: Any
    ) -> None: ...  # fmt: skip
    def reduce_f32(self, x: _Place, y: _Place, outer: int, n: int, inner: int, kind: int) -> None: ...
    # y[pixel][j] = x[pixel][index[j]]
    def permute_channels(self, x: _Place, y: _Place, index: NDArray[np.int32], pixels: int) -> None: ...
    # shape: [B, D, H, W, C]. padding: before the three axes, then behind them.
    def conv3d(
        self, x: _Place, y: _Place, packed: NDArray[np.uint8], shape: Sequence[int], kernel: Sequence[int], stride: Sequence[int],
        padding: Sequence[int], dilation: Sequence[int], *output: Any
    ) -> None: ...  # fmt: skip
    # y_*, x_*: int32 input positions below and above, and float32 0..1 between them, one a line and one a column of the result.
    def resize_linear(
        self, x: _Place, y: _Place, shape: _Four, y_lo: NDArray[np.int32], y_hi: NDArray[np.int32], y_t: NDArray[np.float32],
        x_lo: NDArray[np.int32], x_hi: NDArray[np.int32], x_t: NDArray[np.float32], x_scale: float, x_zero_point: int,
        scale: float, zero_point: int, lo: float | None, hi: float | None
    ) -> None: ...  # fmt: skip
    # rows of n bytes, ldx and ldy bytes apart.
    def lut(self, x: _Place, y: _Place, table: NDArray[np.uint8], rows: int, n: int, ldx: int, ldy: int) -> None: ...
    # inputs: place, type and strides in elements, 0 where one is spread over an axis of the result. over: the input whose bytes the
    # result may take, -1 for none.
    def expression(
        self,
        expression: Expression,
        inputs: Sequence[tuple[_Place, np.dtype[Any], Sequence[int]]],
        y: _Place,
        dtype: np.dtype[Any],
        shape: Sequence[int],
        over: int,
    ) -> None: ...
    def product(
        self, x: _Place, y: _Place, packed: NDArray[np.float32], bias: NDArray[np.float32] | None, rows: int, k: int, n: int, *output: Any
    ) -> None: ...  # fmt: skip
    def matmul_floats(
        self, batch: int, m: int, n: int, k: int, a: ProgramMatrix, b: ProgramMatrix, y: ProgramMatrix, *output: Any
    ) -> None: ...  # fmt: skip
    # y[outer][count][bytes] = x[outer][rows][bytes] at count indices of int64 (wide) or int32
    def take_rows(self, x: _Place, index: _Place, wide: bool, y: _Place, outer: int, rows: int, count: int, bytes: int) -> None: ...
    def quantize(self, x: _Place, y: _Place, n: int, scale: float, zero_point: int, qmax: int, bytes: int = 1) -> None: ...
    def quantize_planes(
        self, x: _Place, y: _Place, batch: int, channels: int, pixels: int, scale: float, zero_point: int, qmax: int
    ) -> None: ...
    def dequantize(self, x: _Place, y: _Place, n: int, scale: float, zero_point: int, bytes: int = 1) -> None: ...
    def copy(self, x: _Place, y: _Place, element: int, shape: Sequence[int], strides: Sequence[int]) -> None: ...
    def runs(self, x: _Place, y: _Place, table: NDArray[np.int64]) -> None: ...
    def fill(self, y: _Place, value: int, table: NDArray[np.int64]) -> None: ...
    def matmul(
        self, batch: int, m: int, n: int, k: int, a: ProgramMatrix, b: ProgramMatrix, y: ProgramMatrix, *output: Any
    ) -> None: ...  # fmt: skip
    # output, and where floats are added to x: their place, sizes and strides in elements over three axes that are the rows
    def softmax(self, x: _Place, y: _Place, rows: int, n: int, is_u8: bool, x_scale: float, x_zero_point: int, *output: Any) -> None: ...
    def norm(
        self, x: _Place, y: _Place, rows: int, n: int, is_u8: bool, x_scale: float, x_zero_point: int, center: bool, epsilon: float,
        gamma: NDArray[np.float32] | None, beta: NDArray[np.float32] | None, *output: Any
    ) -> None: ...  # fmt: skip
    def finish(self) -> None: ...
    # (step, kernel, multiply-adds, bytes, computed in Python) an operation.
    def ops(self) -> list[tuple[int, str, int, int, bool]]: ...
    # (bytes of the arena, bytes that no plan can do without, bytes that each thread but the first needs besides)
    def memory(self) -> tuple[int, int, int]: ...
    def take(self) -> ProgramFrame: ...

class ProgramRunner:
    """Programs of one network for different shapes, the latest used first."""

    def __init__(self) -> None: ...
    def add(self, program: ProgramBuilder, most: int) -> None: ...

# The outputs of the program that was compiled for these inputs (torch tensors or numpy arrays, as the inputs are); None when there is
# none, or an input is not plain.
def run_program(runner: ProgramRunner, /, *inputs: Any) -> Any | None: ...

# ---- elementwise float32 -------------------------------------------------------------------------------------------------
# Values are numbered: the inputs, then the result of each operation. grids: (scale, zero point) an input, (1.0, 0) where it is not uint8.
# operations: (kind, code, value, value or -1, value or -1); kind 0 unary, 1 binary, 2 select, 3 rare; codes are those of
# csrc/kernels/api.h (Unary, Binary) and csrc/ops/expression.h (Rare). parameters: 4 floats an operation. results: values that leave;
# specs: (scale, zero point, lo, hi) of each. Called with inputs that broadcast to the C-contiguous outputs, which have one shape.
class Expression:
    def __init__(
        self,
        grids: list[tuple[float, int]],
        operations: list[tuple[int, int, int, int, int]],
        parameters: list[tuple[float, float, float, float]],
        results: list[int],
        specs: list[tuple[float, int, int, int]],
    ) -> None: ...
    def __call__(self, inputs: list[NDArray[Any]], outputs: list[NDArray[Any]]) -> None: ...
