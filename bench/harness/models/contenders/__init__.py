"""Every way to run a network that the benchmark knows.

Classes: int8 (of whatever recipe the library advises), fp32, bf16, simulation (fake-quantized float32).
"""

from __future__ import annotations

from ...contenders.base import Contender
from . import aimet, onnx_runtime, open_vino, ours, pytorch


def all_contenders() -> list[Contender]:
    """qgemm first, then the peers; floating point and simulations last."""
    return [
        *ours.CONTENDERS,
        *onnx_runtime.INTEGER,
        *open_vino.INTEGER,
        *pytorch.INTEGER,
        *pytorch.FLOATING_POINT,
        *onnx_runtime.FLOATING_POINT,
        *open_vino.FLOATING_POINT,
        *aimet.CONTENDERS,
    ]
