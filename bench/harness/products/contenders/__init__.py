"""Every way to compute these products that the benchmark knows. ``output`` says what a contender delivers:

===========  ====================================================================================
s8           signed: requantized int8
s8 s32       signed: the raw int32 accumulator
u16          wide: requantized uint16
shared       shared: float32 out of float32, quantized at run time
product u8   attention: requantized uint8
product s32  attention: the raw int32 accumulator
product f32  attention: dequantized float32
u8           signed and wide: the GEMM of uint8 by int8 of the same shape, to compare with
fp32, bf16   floating point throughout
===========  ====================================================================================
"""

from __future__ import annotations

from ...contenders.base import Contender
from . import onnx_runtime, open_vino, ours, pytorch


def all_contenders() -> list[Contender]:
    """qgemm first, then the peers; floating point last."""
    return [*ours.CONTENDERS, *pytorch.INTEGER, *onnx_runtime.CONTENDERS, *open_vino.CONTENDERS, *pytorch.FLOATING_POINT]
