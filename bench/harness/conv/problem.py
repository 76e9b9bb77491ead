"""One convolution with its operands, and the exact result on a sample of its outputs.

The quantized layer is that of ``harness.problem``, with w[n] of [Cin/groups, KH, KW]; padded positions are real zeros. Arrays are
NHWC; a 1-D convolution has H = 1. A transposed convolution has one weight scale for all channels, since most peers know no other.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ..problem import POOL, TOLERANCE, aligned
from .shapes import Conv


class Problem:
    """Operands of ``shape``: x uint8 and x_float float32 [B, H, W, Cin], w int8 [Cout, Cin/groups, KH, KW], w_scale, bias [Cout]."""

    x_scale = 0.02
    x_zero_point = 113
    out_zero_point = 128

    def __init__(self, shape: Conv, seed: int = 0):
        self.shape = shape
        one = (1,) if len(shape.size) == 1 else ()
        zero = (0,) if len(shape.size) == 1 else ()
        self.size, self.out_size, self.kernel = one + shape.size, one + shape.out_size, one + shape.kernel
        self.stride, self.dilation, self.padding = one + shape.stride, one + shape.dilation, zero + shape.padding
        self.output_padding = zero + shape.output_padding
        self.groups, self.n = shape.groups, shape.c_out
        self.out_shape = (shape.batch, *self.out_size, self.n)
        self._rng = np.random.default_rng([seed, shape.ops % 2**31, shape.c_in, shape.c_out])
        self.x = aligned(self._rng.integers(0, 256, (shape.batch, *self.size, shape.c_in), dtype=np.uint8))
        # As in harness.problem; clipped to where no two products exceed int16 together, which FBGEMM's depthwise kernels saturate.
        pool = np.clip(np.rint(self._rng.normal(0, 24, min(POOL, self.n * shape.c_in * 64))), -63, 63).astype(np.int8)
        self.w = np.resize(pool, (self.n, shape.c_in // self.groups, *self.kernel))
        self.w_scale = self._rng.uniform(0.004, 0.008, self.n).astype(np.float32)
        if shape.transposed:
            self.w_scale[:] = self.w_scale[0]
        self.bias = self._rng.normal(0, 1, self.n).astype(np.float32)
        self._sample()
        spread = float(self._sums(self.x, self.x_zero_point).std() * self.x_scale * self.w_scale.mean())
        self.out_scale = float(np.float32(6 * spread / 255 if spread > 0 else 0.05))
        self._references: dict[str, np.ndarray] = {}
        self._apart = 1
        self._whole: np.ndarray | None = None  # the first u8 result that was right on the sample

    @cached_property
    def x_float(self) -> np.ndarray:
        return aligned(np.random.default_rng(1).standard_normal(self.x.shape, dtype=np.float32))

    @cached_property
    def w_float(self) -> np.ndarray:
        return self.w * self.w_scale[:, None, None, None]

    @cached_property
    def w_transposed(self) -> np.ndarray:
        """The weight as transposed convolutions take it: [Cin, Cout/groups, KH, KW]."""
        return to_transposed(self.w, self.groups)

    @property
    def bias_int32(self) -> np.ndarray:
        return np.rint(self.bias.astype(np.float64) / (self.x_scale * self.w_scale)).astype(np.int32)

    def _sample(self) -> None:
        """Enough outputs to tell a wrong computation, corners and borders among them."""
        b = np.unique([0, self.shape.batch - 1])
        # Corners, their neighbours and some inside; of a stride, every phase.
        along = [np.unique(np.concatenate([[0, 1, n // 2, n // 2 + 1, n - 2, n - 1]]).clip(0, n - 1)) for n in self.out_size]
        grid = np.meshgrid(b, *along, indexing="ij")
        self.at = tuple(axis.ravel() for axis in grid)
        self.channels = np.unique(np.linspace(0, self.n - 1, 32).astype(int))

    def _window(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """For each sampled output and tap: the input position along ``axis``, and whether there is one."""
        out, taps = self.at[1 + axis][:, None], np.arange(self.kernel[axis])[None] * self.dilation[axis]
        if self.shape.transposed:
            position = out + self.padding[axis] - taps
            there = position % self.stride[axis] == 0
            position = position // self.stride[axis]
        else:
            position = out * self.stride[axis] - self.padding[axis] + taps
            there = np.ones_like(position, bool)
        there &= (position >= 0) & (position < self.size[axis])
        return position.clip(0, self.size[axis] - 1), there

    def _sums(self, x: np.ndarray, zero_point: int, w: np.ndarray | None = None) -> np.ndarray:
        """The sampled sums of products [P, channels], exact in float64 (below 2^53) for integers."""
        (rows, row_there), (columns, column_there) = self._window(0), self._window(1)
        patches = x[self.at[0][:, None, None], rows[:, :, None], columns[:, None, :]].astype(np.float64) - zero_point
        patches *= (row_there[:, :, None] & column_there[:, None, :])[..., None]
        w = (self.w if w is None else w)[self.channels].astype(np.float64)
        if self.groups == 1:
            return patches.reshape(len(patches), -1) @ w.transpose(0, 2, 3, 1).reshape(len(w), -1).T
        group = self.channels // (self.n // self.groups)
        grouped = patches.reshape(*patches.shape[:3], self.groups, -1)[:, :, :, group]
        return np.einsum("pyxnc,ncyx->pn", grouped, w)

    def reference(self, output: str) -> np.ndarray:
        """The sample [P, channels] of the exact result, float64."""
        if output not in self._references:
            self._references[output] = self._reference(output)
        return self._references[output]

    def _reference(self, output: str) -> np.ndarray:
        bias = self.bias[self.channels].astype(np.float64)
        if output in ("fp32", "bf16"):
            return self._sums(self.x_float, 0, self.w_float) + bias
        y = self._sums(self.x, self.x_zero_point) * (self.x_scale * self.w_scale[self.channels].astype(np.float64)) + bias
        return np.clip(np.rint(y / self.out_scale) + self.out_zero_point, 0, 255)

    def check(self, result: np.ndarray, output: str, bias: bool = True, zero_point: bool = True) -> str | None:
        """What is wrong with a contender's ``result`` [B, Ho, Wo, Cout], or None.

        uint8 results may differ by one step: on the sample from the exact one, and everywhere from the first that was right there
        (two steps, when that one was itself a step off somewhere).
        """
        if result.shape != self.out_shape:
            return f"wrong shape {result.shape}, expected {self.out_shape}"
        want, got = self.reference(output), result[self.at][:, self.channels].astype(np.float64)
        difference = np.abs(got - want)
        if output != "u8":
            error = float(np.linalg.norm(difference) / max(np.linalg.norm(want), 1e-30))
            return f"wrong result: relative error {error:.1e}, allowed {TOLERANCE[output]:g}" if not error <= TOLERANCE[output] else None
        worst = float(difference.max())
        if worst <= 1:
            if self._whole is None:
                self._whole, self._apart = result.copy(), 1 if worst == 0 else 2  # two may err by a step to either side
            apart = float(np.abs(result.astype(np.int16) - self._whole).max())
            return f"wrong result: off by {apart:g} outside the sample" if apart > self._apart else None
        return f"wrong result: off by {worst:g} where 1 is allowed"


def to_transposed(w: np.ndarray, groups: int) -> np.ndarray:
    """[Cout, Cin/groups, KH, KW] to [Cin, Cout/groups, KH, KW]"""
    n, c, *kernel = w.shape
    split = w.reshape(groups, n // groups, c, *kernel)
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(groups * c, n // groups, *kernel))
