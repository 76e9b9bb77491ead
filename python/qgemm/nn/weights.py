"""A float weight onto its integer grid, as AIMET does it, and int4 weights to and from their stored form."""

from __future__ import annotations

import numpy as np

from .. import _core
from ..errors import QuantizationError

# AIMET's floor for a weight scale (aimet_torch.common.quantsim._get_minimum_scale at 4 and 8 bits): dead channels get it.
MIN_SCALE = np.finfo(np.float32).eps


def quantize_weight(weight: np.ndarray, bits: int, group_size: int = 0, name: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Symmetric weight quantization, one scale an output channel (axis 0) or a group of input features.

    AIMET's ``min_max`` scheme on its signed grid, in its order of fp32 operations: with qmin = -2^(bits-1), qmax = -qmin - 1,

        delta = max(max(w) / qmax, -min(w) / -qmin),   q = clamp(rint(w * (1 / scale)), qmin, qmax)

    so the larger side of an asymmetric channel decides, and qmin is used.

    weight: float32 [N, ...]. Returns (q, scale): q int8 of the weight's shape; scale float32 [N], or [N, ceil(K / group_size)] for
    ``group_size`` > 0, where K is the product of the other dimensions. Every scale is at least 1.19e-7, so a channel of zeros is exact.
    Raises QuantizationError for NaN or infinite weights, naming the first channel.
    """
    n = weight.shape[0]
    k = int(np.prod(weight.shape[1:]))
    flat = np.ascontiguousarray(weight, dtype=np.float32).reshape(n, k)
    finite = np.isfinite(flat).all(axis=1)
    if not finite.all():
        channel = int(np.argmin(finite))
        layer = f"layer '{name}': " if name else ""
        raise QuantizationError(f"{layer}output channel {channel} of the weight holds NaN or infinite values, which have no scale")
    groups = -(-k // group_size) if group_size else 1
    if group_size and k % group_size:
        flat = np.pad(flat, ((0, 0), (0, groups * group_size - k)))  # zeros never widen a range that includes 0
    blocks = flat.reshape(n, groups, -1)

    qmax, qmin = 2 ** (bits - 1) - 1, -(2 ** (bits - 1))
    steps = np.float32(qmax - qmin)
    high = blocks.max(axis=2, initial=0.0)
    low = blocks.min(axis=2, initial=0.0)
    degenerate = MIN_SCALE * ((high - low) / steps < MIN_SCALE)
    high = high + qmax * degenerate
    low = low + qmin * degenerate
    delta = np.maximum(high / np.float32(qmax), -low / np.float32(-qmin))
    scale = np.maximum((np.float32(qmax) * delta - np.float32(qmin) * delta) / steps, MIN_SCALE).astype(np.float32)

    q = np.clip(np.rint(blocks * (np.float32(1.0) / scale)[:, :, None]), qmin, qmax).astype(np.int8)
    q = q.reshape(n, -1)[:, :k].reshape(weight.shape)
    return np.ascontiguousarray(q), scale if group_size else scale[:, 0].copy()


def to_stored(q: np.ndarray, bits: int) -> np.ndarray:
    """int8 values [N, ...] as a state_dict holds them: unchanged for 8 bits, uint8 [N, ceil(K / 2)] for 4 (low nibble first)."""
    return q if bits == 8 else _core.pack_int4(q.reshape(q.shape[0], -1))


def from_stored(stored: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of :func:`to_stored`: int8 of ``shape``."""
    if bits == 8:
        return stored.reshape(shape)
    return _core.unpack_int4(stored, int(np.prod(shape[1:])), True).reshape(shape)


def stored_shape(bits: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if bits == 8 else (shape[0], (int(np.prod(shape[1:])) + 1) // 2)
