"""One line of a lowered plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Env = dict[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """An operation bound to its kernel.

    run(env) reads the arrays named in ``inputs`` from ``env`` and stores those named in ``outputs``. Arrays of a tensor on a
    per-tensor grid of at most 8 bits are uint8, everything else has ONNX's type. Shapes are ONNX's; convolutions leave
    channels-last memory.
    """

    name: str  # the layer's: torch module, or ONNX node
    op: str
    kernel: str  # engine entry ("conv2d", "linear", "lut", ...), "view", or "numpy"
    scheme: str  # "W8A8", "W4A8", "u8", "bytes", "float", "index", ...
    run: Callable[[Env], None]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reason: str = ""  # why it computes in float
    module: str = ""
    weight_bytes: int = 0
    node: str = ""  # the ONNX node's name
