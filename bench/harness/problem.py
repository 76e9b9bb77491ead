"""One GEMM with its operands, and the exact result on a sample of its outputs.

The quantized layer: x_real = x_scale*(x - x_zero_point), w_real[n] = w_scale[n]*w[n], y = x_real @ w_real^T + bias, and for a
requantized output q = clamp(rint(y/out_scale) + out_zero_point, 0, 255). The dynamic and floating-point contenders get ``x_float``,
values that lie on no grid.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from .shapes import Shape

# Largest relative error (Euclidean norm over the sample) for each output; u8 may differ by one step, s32 must be exact.
TOLERANCE = {"f32": 1e-5, "fp32": 1e-5, "dynamic": 0.02, "bf16": 0.02}
POOL = 1_000_003  # prime, so that repeating it aligns with no row length
ALIGNMENT = 64


def aligned(a: np.ndarray) -> np.ndarray:
    """A copy of ``a`` that starts at a cache line, as the tensors of every framework do and numpy's arrays do not."""
    memory = np.empty(a.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


class Problem:
    """Operands of ``shape``: x uint8 [M, K], w int8 [N, K], x_float float32 [M, K], w_scale and bias float32 [N]."""

    x_scale = 0.02
    x_zero_point = 113
    out_zero_point = 128

    def __init__(self, shape: Shape, seed: int = 0):
        self.shape = shape
        self.m, self.k, self.n = shape.m, shape.k, shape.n
        rng = np.random.default_rng([seed, shape.m, shape.k, shape.n])
        self.x = aligned(rng.integers(0, 256, (self.m, self.k), dtype=np.uint8))
        self.x_float = aligned(rng.standard_normal((self.m, self.k), dtype=np.float32))
        # Normal, as trained weights are. The products of two neighbours then stay within int16, so that CPUs without a dot-product
        # instruction, where several libraries add pairs with saturation, compute the same.
        pool = np.clip(np.rint(rng.normal(0, 24, POOL)), -127, 127).astype(np.int8)
        self.w = np.resize(pool, (self.n, self.k))
        self.w_scale = rng.uniform(0.004, 0.008, self.n).astype(np.float32)
        self.bias = rng.normal(0, 1, self.n).astype(np.float32)
        # Enough outputs to tell a wrong computation, few enough to cost nothing.
        self.rows = np.unique(np.linspace(0, self.m - 1, 5).astype(int))
        self.columns = np.unique(np.linspace(0, self.n - 1, 48).astype(int))
        spread = float(self._accumulator().astype(np.float64).std() * self.x_scale * self.w_scale.mean())
        self.out_scale = float(np.float32(6 * spread / 255 if spread > 0 else 0.05))

    @cached_property
    def w_float(self) -> np.ndarray:
        """float32 [N, K]"""
        return self.w * self.w_scale[:, None]

    @cached_property
    def w_transposed(self) -> np.ndarray:
        """int8 [K, N], C-contiguous"""
        return np.ascontiguousarray(self.w.T)

    @property
    def bias_int32(self) -> np.ndarray:
        """The bias in steps of the accumulator, for operators that take it so."""
        return np.rint(self.bias.astype(np.float64) / (self.x_scale * self.w_scale)).astype(np.int32)

    def _accumulator(self, zero_point: bool = True) -> np.ndarray:
        x = self.x[self.rows].astype(np.int64) - (self.x_zero_point if zero_point else 0)
        return x @ self.w[self.columns].astype(np.int64).T

    def reference(self, output: str, bias: bool = True, zero_point: bool = True) -> np.ndarray:
        """The sample [rows, columns] of the exact result, float64."""
        added = self.bias[self.columns].astype(np.float64) if bias else 0.0
        w_scale = self.w_scale[self.columns].astype(np.float64)
        if output in ("dynamic", "fp32", "bf16"):
            return self.x_float[self.rows].astype(np.float64) @ (self.w[self.columns] * w_scale[:, None]).T + added
        accumulator = self._accumulator(zero_point).astype(np.float64)
        if output == "s32":
            return accumulator
        y = accumulator * (self.x_scale * w_scale) + added
        return y if output == "f32" else np.clip(np.rint(y / self.out_scale) + self.out_zero_point, 0, 255)

    def check(self, result: np.ndarray, output: str, bias: bool = True, zero_point: bool = True) -> str | None:
        """What is wrong with a contender's ``result`` [M, N], or None."""
        if result.shape != (self.m, self.n):
            return f"wrong shape {result.shape}, expected {(self.m, self.n)}"
        want = self.reference(output, bias, zero_point)
        got = result[np.ix_(self.rows, self.columns)].astype(np.float64)
        difference = np.abs(got - want)
        if output in ("u8", "s32"):
            allowed = 1 if output == "u8" else 0
            worst = difference.max()
            return f"wrong result: off by {worst:g} where {allowed} is allowed" if not worst <= allowed else None
        error = float(np.linalg.norm(difference) / max(np.linalg.norm(want), 1e-30))
        return f"wrong result: relative error {error:.1e}, allowed {TOLERANCE[output]:g}" if not error <= TOLERANCE[output] else None
