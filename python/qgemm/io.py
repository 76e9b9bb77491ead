"""Files and float torch models -> Program."""

from __future__ import annotations

from .errors import ConfigError
from .files import holds_program, read_program
from .graph.from_onnx import import_onnx
from .graph.from_torch import import_torch
from .graph.passes import run_all
from .program import Program


def load(path, encodings=None, on_unsupported: str = "float") -> Program:
    """Load a quantized network for execution.

    path: what :func:`qgemm.save` wrote; a QDQ ONNX file (AIMET's ``aimet_torch.onnx.export``, or anybody's); or a plain ONNX file
    together with the JSON ``encodings`` that AIMET wrote beside it (0.6.1, 1.0.0, 2.0.0, 2.1.0: a path or the parsed dict). Bytes of
    ONNX and an ``onnx.ModelProto`` work too. on_unsupported: "float" runs layers without 8-bit encodings in float32 (``qgemm.report`` says
    which and why); "raise" refuses them.

    Raises ModelFormatError, EncodingError, UnsupportedOpError, QuantizationError, MissingDependencyError.
    """
    if holds_program(path):
        if encodings is not None:
            raise ConfigError("a .qgemm file has its encodings inside: leave out encodings")
        return read_program(path, on_unsupported)
    graph = import_onnx(path)
    if encodings is not None:
        from .aimet import apply_encodings, read_encodings

        apply_encodings(graph, read_encodings(encodings))
    return Program(run_all(graph), on_unsupported)


def from_torch(model, example_inputs) -> Program:
    """Run a float torch model as a program, in float32: what :func:`qgemm.quantize` starts from, and the reference to compare it with.

    model: an ``nn.Module`` in evaluation mode, on the CPU; it is not changed. example_inputs: a tensor (or array), or a tuple of them,
    as ``forward`` takes; axis 0 is the batch and may later have any size where torch can trace it so.

    Raises DTypeError, ConfigError for a model in training mode, DeviceError, UnsupportedOpError, MissingDependencyError.
    """
    return Program(run_all(import_torch(model, example_inputs)))
