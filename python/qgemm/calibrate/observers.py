"""Ranges of activations from the values that calibration saw. To add a method: a class with these two methods, a row in OBSERVERS."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..numerics import activation_encoding, dequantize, quantize


class Observer(Protocol):
    def update(self, x: np.ndarray) -> None:
        """Take in the finite float32 values ``x``, any shape, not empty. ``x`` is not kept."""

    def range(self) -> tuple[float, float]:
        """(lo, hi) of the grid, lo <= hi; called after at least one update."""


class MinMax:
    """The smallest and the largest value seen, over all batches: AIMET's ``post_training_tf``, its default."""

    def __init__(self):
        self.lo, self.hi = np.float32(np.inf), np.float32(-np.inf)

    def update(self, x: np.ndarray) -> None:
        self.lo, self.hi = min(self.lo, x.min()), max(self.hi, x.max())

    def range(self) -> tuple[float, float]:
        return float(self.lo), float(self.hi)


class Mse:
    """The range [a * lo, b * hi] inside the observed [lo, hi] that leaves the least mean squared error on a uint8 grid.

    Values are counted in 8,192 equal bins over [-R, R], R a power of two; when a value falls outside, R doubles and bins merge in
    pairs, so that batches need not be kept and their order does not matter. The error of a range is ``sum_i count_i * (c_i -
    fake_quantize(c_i))^2`` over bin centres c_i (clamped to [lo, hi]), on the grid that :func:`qgemm.numerics.activation_encoding`
    gives it: rounding inside, clipping outside. Factors are 1, 0.98, ... 0.10: first one for both ends, then the upper end alone, then
    the lower; a smaller factor is taken only if its error is smaller.
    """

    BINS = 8192
    FACTORS = np.arange(50, 4, -1) / 50

    def __init__(self):
        self.seen = MinMax()
        self.radius = 0.0
        self.counts = np.zeros(self.BINS, np.int64)

    def update(self, x: np.ndarray) -> None:
        self.seen.update(x)
        top = float(np.abs(x).max())
        if top > self.radius:
            self._widen(2.0 ** np.ceil(np.log2(max(top, 2.0**-126))))
        index = np.floor((x.ravel().astype(np.float64) + self.radius) * (self.BINS / 2 / self.radius)) if self.radius else np.zeros(x.size)
        self.counts += np.bincount(np.clip(index, 0, self.BINS - 1).astype(np.int64), minlength=self.BINS)

    def _widen(self, radius: float) -> None:
        while 0 < self.radius < radius:
            inner = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.zeros_like(self.counts)
            self.counts[self.BINS // 4 : 3 * self.BINS // 4] = inner
            self.radius *= 2
        if not self.radius:  # only zeros so far, or nothing
            zeros, self.counts = self.counts.sum(), np.zeros_like(self.counts)
            self.counts[self.BINS // 2] = zeros
            self.radius = radius

    def range(self) -> tuple[float, float]:
        lo, hi = self.seen.range()
        if not self.radius:
            return lo, hi
        used = np.flatnonzero(self.counts)
        centres = np.clip((used + 0.5) * (2 * self.radius / self.BINS) - self.radius, lo, hi).astype(np.float32)
        counts = self.counts[used].astype(np.float64)
        best = (self._error(centres, counts, lo, hi), 1.0, 1.0)
        for move_lo, move_hi in ((True, True), (False, True), (True, False)):
            _, a, b = best
            for f in self.FACTORS:
                fa, fb = (f if move_lo else a), (f if move_hi else b)
                error = self._error(centres, counts, fa * min(lo, 0.0), fb * max(hi, 0.0))
                if error < best[0]:
                    best = (error, fa, fb)
        return best[1] * min(lo, 0.0), best[2] * max(hi, 0.0)

    @staticmethod
    def _error(centres: np.ndarray, counts: np.ndarray, lo: float, hi: float) -> float:
        scale, zero = activation_encoding(lo, hi)
        error = (dequantize(quantize(centres, scale, zero, 0, 255), scale, zero) - centres).astype(np.float64)
        return float((error * error * counts).sum())


OBSERVERS: dict[str, type[Observer]] = {"minmax": MinMax, "mse": Mse}
