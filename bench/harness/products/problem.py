"""Operands of one product, and the exact result on a sample of its outputs."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ..problem import Problem, aligned
from ..shapes import Shape
from .shapes import Product

# Steps of a 16-bit output by which a float computation may differ; its sums carry 24 bits.
WIDE_STEPS = 2


def _off_by(got: np.ndarray, want: np.ndarray, allowed: int) -> str | None:
    worst = np.abs(got.astype(np.float64) - want).max()
    return f"wrong result: off by {worst:g} where {allowed} is allowed" if not worst <= allowed else None


def _close(got: np.ndarray, want: np.ndarray, allowed: float) -> str | None:
    error = float(np.linalg.norm(got.astype(np.float64) - want) / max(np.linalg.norm(want), 1e-30))
    return f"wrong result: relative error {error:.1e}, allowed {allowed:g}" if not error <= allowed else None


class Linear:
    """What the kinds with weights have in common: ``base``, a GEMM of uint8 by int8 with its operands."""

    def __init__(self, shape: Product):
        self.shape = shape
        self.m, self.k, self.n = shape.m, shape.k, shape.n
        self.base = Problem(Shape(shape.m, shape.k, shape.n))

    def check(self, result: np.ndarray, output: str, bias: bool = True, zero_point: bool = True) -> str | None:
        if result.shape != (self.m, self.n):
            return f"wrong shape {result.shape}, expected {(self.m, self.n)}"
        return self.compare(result, output, bias, zero_point)

    def compare(self, result: np.ndarray, output: str, bias: bool, zero_point: bool) -> str | None:
        return self.base.check(result, output, bias, zero_point)

    def sample(self, result: np.ndarray) -> np.ndarray:
        return result[np.ix_(self.base.rows, self.base.columns)]


class Signed(Linear):
    """x int8: that of ``base`` minus 128, as its zero point and the output's."""

    def __init__(self, shape: Product):
        super().__init__(shape)
        self.x = (self.base.x ^ 0x80).view(np.int8)
        self.x_zero_point, self.out_zero_point = self.base.x_zero_point - 128, self.base.out_zero_point - 128

    def compare(self, result: np.ndarray, output: str, bias: bool, zero_point: bool) -> str | None:
        if output == "s8":
            return self.base.check(result.astype(np.int16) + 128, "u8", bias)
        if output == "s8 s32":
            x = self.x[self.base.rows].astype(np.int64) - (self.x_zero_point if zero_point else 0)
            return _off_by(self.sample(result), x @ self.base.w[self.base.columns].astype(np.int64).T, 0)
        return super().compare(result, output, bias, zero_point)


class Wide(Linear):
    """x uint16 on a grid 257 times as fine, of the same range; and so is the output's."""

    def __init__(self, shape: Product):
        super().__init__(shape)
        self.x = aligned(np.random.default_rng([1, self.m, self.k, self.n]).integers(0, 65536, (self.m, self.k), dtype=np.uint16))
        self.x_scale, self.x_zero_point = float(np.float32(self.base.x_scale / 257)), 257 * self.base.x_zero_point
        self.out_scale, self.out_zero_point = float(np.float32(self.base.out_scale / 257)), 32768

    def compare(self, result: np.ndarray, output: str, bias: bool, zero_point: bool) -> str | None:
        if output != "u16":
            return super().compare(result, output, bias, zero_point)
        b = self.base
        sums = (self.x[b.rows].astype(np.int64) - self.x_zero_point) @ b.w[b.columns].astype(np.int64).T
        y = sums * (self.x_scale * b.w_scale[b.columns].astype(np.float64)) + b.bias[b.columns]
        return _off_by(self.sample(result), np.clip(np.rint(y / self.out_scale) + self.out_zero_point, 0, 65535), WIDE_STEPS)


class Shared(Linear):
    """The layers' weights joined; a result is the layers' outputs side by side."""

    @property
    def layers(self) -> list[slice]:
        """Outputs of each layer."""
        ends = np.cumsum([0, *self.shape.parts])
        return [slice(int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def compare(self, result: np.ndarray, output: str, bias: bool, zero_point: bool) -> str | None:
        return super().compare(result, "dynamic" if output == "shared" else output, bias, zero_point)


class Attention:
    """a and b uint8 [batch, M, K] and [batch, K, N]; ``b_stored`` [batch, N, K] where the shape is transposed."""

    a_scale, b_scale = 0.02, 0.03
    a_zero_point, b_zero_point, out_zero_point = 117, 121, 128

    def __init__(self, shape: Product):
        self.shape = shape
        self.batch, self.m, self.k, self.n = shape.batch, shape.m, shape.k, shape.n
        rng = np.random.default_rng([2, self.batch, self.m, self.k, self.n])
        self.a = aligned(rng.integers(0, 256, (self.batch, self.m, self.k), dtype=np.uint8))
        # Normal about the zero point, as activations are, so that pairs of products stay within int16 (see harness.problem).
        values = np.rint(rng.normal(self.b_zero_point, 20, (self.batch, self.k, self.n)))
        self.b = aligned(np.clip(values, self.b_zero_point - 90, self.b_zero_point + 90).astype(np.uint8))
        self.b_stored = aligned(self.b.swapaxes(1, 2)) if shape.transposed else self.b
        spread = 6 * self._sums().std() * self.a_scale * self.b_scale
        self.out_scale = float(np.float32(spread / 255 if spread > 0 else 0.05))

    @cached_property
    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        return np.unique(np.linspace(0, self.m - 1, 5).astype(int)), np.unique(np.linspace(0, self.batch - 1, 3).astype(int))

    def _sums(self) -> np.ndarray:
        rows, which = self.samples
        a, b = self.a[which][:, rows].astype(np.int64) - self.a_zero_point, self.b[which].astype(np.int64) - self.b_zero_point
        return a @ b

    def float_operands(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 a and b_stored"""
        a = (self.a.astype(np.float32) - self.a_zero_point) * np.float32(self.a_scale)
        return a, (self.b_stored.astype(np.float32) - self.b_zero_point) * np.float32(self.b_scale)

    def check(self, result: np.ndarray, output: str, bias: bool = True, zero_point: bool = True) -> str | None:
        if result.shape != (self.batch, self.m, self.n):
            return f"wrong shape {result.shape}, expected {(self.batch, self.m, self.n)}"
        rows, which = self.samples
        got, sums = result[which][:, rows], self._sums()
        if output == "product s32":
            return _off_by(got, sums, 0)
        y = sums * (self.a_scale * self.b_scale)
        if output == "product u8":
            return _off_by(got, np.clip(np.rint(y / self.out_scale) + self.out_zero_point, 0, 255), 1)
        return _close(got, y, 0.02 if output == "bf16" else 1e-5)


KINDS = {"signed": Signed, "wide": Wide, "shared": Shared, "attention": Attention}
