"""AIMET: its encodings files, its live simulation, its numbers.

read_encodings(path | dict) -> Encodings          every format, one type
apply_encodings(graph, encodings)                 onto an imported ONNX graph (qgemm.load does it)
from_aimet(sim, example_inputs) -> Program        a live QuantizationSimModel
from_torch_encodings(model, path, example_inputs) a torch model and its _torch.encodings
load_torch_encodings(model, path)                 the same as QParams per module, without building a program
accelerate(sim), restore(sim)                     the live simulation itself on integer kernels, and back
"""

from .acceleration import accelerate, restore
from .apply import apply_encodings
from .encodings import Encodings, ModuleEncodings, TensorEncoding, read_encodings
from .live import from_aimet
from .torch_modules import ModuleQParams, from_torch_encodings, load_torch_encodings

__all__ = [
    "Encodings",
    "ModuleEncodings",
    "ModuleQParams",
    "TensorEncoding",
    "accelerate",
    "apply_encodings",
    "from_aimet",
    "from_torch_encodings",
    "load_torch_encodings",
    "read_encodings",
    "restore",
]
