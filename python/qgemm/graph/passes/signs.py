"""One signedness for each kind of tensor: per-tensor activations of at most 8 bits are unsigned, quantized constants signed.

The engine multiplies u8 activations with s8 weights. Moving a grid of b bits by 2^(b-1), integers and zero point alike, changes
no real value.
"""

from __future__ import annotations

import numpy as np

from ..grids import shift
from ..ir import Graph


def normalize_signs(graph: Graph) -> None:
    for t in graph.tensors.values():
        if t.qparams is None or t.qparams.bits > 8:
            continue
        if not t.is_const:
            if t.qparams.per_tensor:
                t.qparams, _ = shift(t.qparams, signed=False)
        elif not t.qparams.signed:
            t.qparams, by = shift(t.qparams, signed=True)
            t.data = (t.data.astype(np.int16) + by).astype(np.int8)
        elif t.data.dtype != np.int8:
            t.data = t.data.astype(np.int8)
