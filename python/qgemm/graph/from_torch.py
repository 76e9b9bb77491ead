"""torch model -> Graph: ``torch.onnx.export(dynamo=True)`` in memory, then the ONNX importer."""

from __future__ import annotations

from ..errors import ConfigError, DTypeError, UnsupportedOpError, require
from ..exporting import as_inputs, as_modules, check_on_cpu, first_line, quiet
from .from_onnx import import_onnx
from .ir import Graph

OPSET = 21


def import_torch(model, example_inputs, who: str = "qgemm.from_torch") -> Graph:
    """Import a float ``nn.Module`` in evaluation mode, on the CPU. It is not changed.

    example_inputs: a tensor (or array), or a tuple of them, as ``forward`` takes. Axis 0 of every input becomes a batch of any size
    where torch can trace it so, and else keeps the example's size.

    Raises DTypeError for what is no module, ConfigError for a model in training mode, DeviceError, UnsupportedOpError for what
    torch.onnx cannot export, MissingDependencyError.
    """
    torch = require("torch", who)
    require("onnx", who)
    require("onnxscript", who)
    if not isinstance(model, torch.nn.Module):
        raise DTypeError(f"{who} takes a torch.nn.Module, got {type(model).__name__}")
    training = next((name or "the model itself" for name, m in model.named_modules() if m.training), None)
    if training is not None:
        raise ConfigError(
            f"{who}: the model is in training mode ({training}), where BatchNorm and Dropout act differently: call model.eval() first"
        )
    inputs = as_inputs(example_inputs)
    check_on_cpu(model, who)
    # torch.export takes a size of 1 for a constant.
    inputs = tuple(torch.cat([x, x]) if x.ndim and x.shape[0] == 1 else x for x in inputs)
    failure: Exception | None = None
    for dynamic in (True, False):
        shapes = tuple({0: torch.export.Dim.AUTO} if x.ndim else {} for x in inputs) if dynamic else None
        try:
            with quiet(), torch.no_grad(), as_modules():
                exported = torch.onnx.export(model, inputs, dynamo=True, opset_version=OPSET, dynamic_shapes=shapes, verbose=False)
            return import_onnx(exported.model_proto)
        except torch.onnx.errors.OnnxExporterError as e:
            failure = e
    cause = failure.__cause__ or failure
    raise UnsupportedOpError(
        f"{who}: torch.onnx cannot export this model ({type(cause).__name__}: {first_line(cause)}); "
        "if its forward branches on values or calls foreign code, quantize its layers with qgemm.quantize_"
    ) from failure
