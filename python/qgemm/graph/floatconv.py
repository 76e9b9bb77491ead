"""Convolutions that compute in float32: the engine's kernels, where the channels of a group fill their panels."""

from __future__ import annotations

import numpy as np

from .. import _core
from .executors import _two, windowed
from .floatnn import Window

PANEL = 32  # columns of a panel of weights (kSgemmPanel)
LEAST_COLUMNS = 8  # a group of fewer leaves most of a panel empty: numpy is no slower


def pack(w: np.ndarray, groups: int = 1) -> np.ndarray:
    """float32 [N, C / groups, KH, KW] -> [groups, panels, KH * KW * C / groups, 32]: tap by tap, zero beyond the last column."""
    n, channels = w.shape[0] // groups, w.shape[1]
    columns = w.reshape(groups, n, channels, -1).transpose(0, 3, 2, 1).reshape(groups, -1, n)
    out = np.zeros((groups, -(-n // PANEL), columns.shape[1], PANEL), np.float32)
    for p in range(out.shape[1]):
        part = columns[..., p * PANEL : (p + 1) * PANEL]
        out[:, p, :, : part.shape[-1]] = part
    return out


def conv(x: str, y: str, panels: np.ndarray, bias: np.ndarray, win: Window, channels: int, lo, hi, label: str):
    kernel = _two(win.kernel, 1)

    def call(t, out, stride, padding, dilation):
        _core.conv2d_f32(t, panels, bias, out, kernel, stride, padding, dilation, lo, hi)

    return windowed(x, y, win, channels, bias.size, call, np.float32, label)
