"""Memory order of run-time arrays. Logical shapes are ONNX's (NCHW); convolutions leave channels-last memory behind."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_NHWC, _NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def nhwc(x: np.ndarray) -> np.ndarray:
    """[B, C, H, W] -> C-contiguous [B, H, W, C]; a view when the memory already is channels-last."""
    t = x.transpose(_NHWC)
    if t.flags.c_contiguous:
        return t
    b, h, w, c = t.shape
    out = np.empty((b, h, w, c), x.dtype)
    if c <= 4:  # whole planes at a time: numpy would otherwise loop over runs of c elements
        for i in range(c):
            out[..., i] = x[:, i]
    else:
        out[...] = t
    return out


def nchw_view(t: np.ndarray) -> np.ndarray:
    """C-contiguous [B, H, W, C] seen as [B, C, H, W]."""
    return t.transpose(_NCHW)


def dense(x: np.ndarray) -> tuple[np.ndarray, tuple[int, ...] | None]:
    """(C-contiguous array with the same elements, axes that lead back to x's shape; None when nothing moved).

    Free for any permuted dense array; elementwise kernels use it, since they do not care in which order they walk. An array with gaps is
    copied in the order in which it lies.
    """
    if x.flags.c_contiguous:
        return x, None
    if x.ndim == 4:
        t = x.transpose(_NHWC)
        if t.flags.c_contiguous:
            return t, _NCHW
    order = sorted(range(x.ndim), key=lambda i: (-x.strides[i], i))
    t = x.transpose(order)
    if t.flags.c_contiguous or all(s > 0 for s, n in zip(x.strides, x.shape, strict=True) if n > 1):
        return np.ascontiguousarray(t), tuple(np.argsort(order))
    return np.ascontiguousarray(x), None


def memory_order(shape, strides) -> tuple[int, ...]:
    """Axes from the outermost in memory to the innermost; those of one element stay where they are."""
    moved = iter(sorted((i for i in range(len(shape)) if shape[i] != 1), key=lambda i: (-strides[i], i)))
    return tuple(i if shape[i] == 1 else next(moved) for i in range(len(shape)))


def like(a: np.ndarray, back: tuple[int, ...] | None) -> np.ndarray:
    return a if back is None else a.transpose(back)


def reduction_order(shape: tuple[int, ...], memory: tuple[int, ...], axes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """How the engine reduces ``axes``: (the axes as it reads them, how many of them come before those). Elements are added in the order
    of their indices, so where these do not lie so side by side in memory, they are copied behind the others."""
    at = [memory.index(a) for a in axes]
    if all(b == a + 1 for a, b in zip(at, at[1:], strict=False)):
        return memory, at[0]
    kept = tuple(a for a in range(len(shape)) if a not in axes)
    return (*kept, *axes), len(kept)


def parts(sizes: Sequence[int], before: int, count: int) -> tuple[int, int, int]:
    """How many elements the first ``before`` axes have, the ``count`` behind them, and the others."""
    return math.prod(sizes[:before]), math.prod(sizes[before : before + count]), math.prod(sizes[before + count :])
