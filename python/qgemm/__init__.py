"""qgemm: quantized PyTorch and AIMET models on CPUs, with integer arithmetic.

    fast = qgemm.from_aimet(sim, example_inputs)                  # a live AIMET simulation
    fast = qgemm.load("net.onnx", encodings="net.encodings")      # what AIMET exported
    y = fast(x)                                                   # torch in, torch out; numpy in, numpy out
    qgemm.validate(fast, sim, batches); print(qgemm.report(fast))
    qgemm.save(fast, "net.qgemm"); fast = qgemm.load("net.qgemm") # one file, the same bits on any CPU

    fast = qgemm.quantize(model, calibration=batches)             # a float torch model, static W8A8
    qgemm.quantize_(model, qgemm.W8A8Dynamic())                   # drop-in Linear/Conv, in place
    qgemm.nn.Linear.from_float(linear, qgemm.W8A8Dynamic())       # one layer
    torch.ops.qgemm.*                                             # registered by `import qgemm.ops`

Names are imported on first use: `import qgemm` needs numpy alone.
"""

from __future__ import annotations

import importlib

from . import errors
from ._core import __version__

_LAZY = {
    "from_aimet": "aimet",
    "load": "io",
    "save": "files",
    "from_torch": "io",
    "quantize": "calibrate",
    "validate": "validation",
    "report": "reporting",
    "quantize_": "quantization",
    "W8A8": "config",
    "W8A8Dynamic": "config",
    "W4A8Dynamic": "config",
    "Program": "program",
}
_MODULES = ("aimet", "nn", "ops", "numerics")

__all__ = ["__version__", "errors", *_LAZY, *_MODULES]


def __getattr__(name: str):
    if name in _LAZY:
        value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
