"""OpenVINO: latency hint, inputs shared, outputs not copied. int8 with float parts in either precision the CPU has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...contenders.base import Contender, Variant
from .. import artefacts
from ..problem import Problem


class Compiled(Contender):
    library = "openvino"
    modules = ("torch", "onnx", "openvino")

    def __init__(self, name: str, output: str, hints: tuple[str, ...], *files: Callable[[Problem], Path]):
        self.name, self.output, self.hints, self.files = name, output, hints, files

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        return [self._variant(problem, threads, file(problem), hint) for file in self.files for hint in self.hints]

    def _variant(self, problem: Problem, threads: int, path: Path, hint: str) -> Variant:
        import openvino as ov

        config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        core = ov.Core()
        request = core.compile_model(core.read_model(path), "CPU", config).create_infer_request()
        x = problem.x.numpy()
        request.set_input_tensor(0, ov.Tensor(x, shared_memory=True))

        def call(kept: np.ndarray = x) -> None:  # the shared tensor does not keep its memory alive
            request.infer(None, share_outputs=True)

        return Variant(call, lambda: request.get_output_tensor(0).data.copy(), f"{path.stem}, {hint}")


def _products(p: Problem) -> Path:
    return artefacts.onnx_qdq(p, only_products=True)


INTEGER: list[Contender] = [Compiled("OpenVINO QDQ", "int8", ("f32", "bf16"), artefacts.onnx_qdq, _products)]
FLOATING_POINT: list[Contender] = [
    Compiled("OpenVINO FP32", "fp32", ("f32",), artefacts.onnx_float),
    Compiled("OpenVINO BF16", "bf16", ("bf16",), artefacts.onnx_float),
]
