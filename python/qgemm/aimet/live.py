"""A live AIMET simulation -> a program, through the QDQ ONNX file that AIMET writes for it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..errors import DTypeError, EncodingError, UnsupportedOpError, require
from ..graph.from_onnx import import_onnx
from ..graph.passes import run_all
from ..program import Program
from .export import as_inputs, as_modules, check_on_cpu, evaluating, first_line, names_and_axes, quiet


def is_simulation(obj) -> bool:
    """True for an aimet_torch QuantizationSimModel; does not import aimet_torch."""
    return any(c.__name__ == "QuantizationSimModel" and c.__module__.split(".")[0] == "aimet_torch" for c in type(obj).__mro__)


def uncalibrated(sim) -> list[str]:
    """Names of the quantizers that have no encoding yet, such as ``conv1.output_quantizers.0``."""
    require("aimet_torch", "qgemm.from_aimet")
    from aimet_torch.quantization.base import QuantizerBase

    return [n for n, m in sim.model.named_modules() if isinstance(m, QuantizerBase) and not m.is_initialized()]


def from_aimet(sim, example_inputs, on_unsupported: str = "float"):
    """Build a program that computes in integers what the AIMET simulation computes in fake-quantized floats.

    sim: an ``aimet_torch.quantsim.QuantizationSimModel`` with computed encodings, on the CPU. It is not changed.
    example_inputs: a tensor (or array), or a tuple of them, as ``sim.model`` takes; axis 0 is the batch and may later have any size.
    on_unsupported: "float" runs what has no integer form in float and says why in ``qgemm.report``; "raise" refuses it.

    Returns a :class:`qgemm.Program`. Raises DTypeError if ``sim`` is no QuantizationSimModel, EncodingError if its encodings
    have not been computed, MissingDependencyError without aimet-torch, and UnsupportedOpError for what AIMET cannot export.
    """
    torch = require("torch", "qgemm.from_aimet")
    require("onnx", "qgemm.from_aimet")
    require("aimet_torch", "qgemm.from_aimet")
    if not is_simulation(sim):
        hint = "; pass the simulation itself, not its .model" if isinstance(sim, torch.nn.Module) else ""
        raise DTypeError(f"from_aimet takes an aimet_torch QuantizationSimModel, got {type(sim).__name__}{hint}")

    inputs = as_inputs(example_inputs)
    check_on_cpu(sim.model, "from_aimet")
    missing = uncalibrated(sim)
    with tempfile.TemporaryDirectory(prefix="qgemm-") as folder, torch.no_grad(), evaluating(sim.model), as_modules():
        path = Path(folder) / "qdq.onnx"
        try:
            with quiet():
                outputs = sim.model(*inputs)
        except Exception as e:
            if missing:
                raise EncodingError(
                    f"the simulation has no encodings for {len(missing)} quantizers ({', '.join(missing[:3])}): "
                    "run sim.compute_encodings(...) first"
                ) from e
            raise
        try:
            with quiet():
                from aimet_torch import onnx as aimet_onnx

                aimet_onnx.export(
                    sim,
                    inputs if len(inputs) > 1 else inputs[0],
                    str(path),
                    opset_version=21,
                    dynamo=False,
                    prequantize_constants=True,
                    export_int32_bias=False,
                    **names_and_axes(sim.model, inputs, outputs),
                )
        except Exception as e:
            raise UnsupportedOpError(
                f"AIMET cannot export this simulation to ONNX with QuantizeLinear nodes ({type(e).__name__}: {first_line(e)}); "
                "export with sim.onnx.export(...) and use qgemm.load(model, encodings=...)"
            ) from e
        program = Program(run_all(import_onnx(path)), on_unsupported)
    program.source = "aimet"
    return program
