"""ONNX Runtime: all optimizations, operands bound once. Of quantized files the faster of two recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...contenders.base import Contender, Variant
from .. import artefacts
from ..problem import Problem


class Session(Contender):
    library = "onnxruntime"
    modules = ("torch", "onnx", "onnxruntime")

    def __init__(self, name: str, output: str, *files: Callable[[Problem], Path], only: tuple[str, ...] = ()):
        self.name, self.output, self.files, self.only = name, output, files, only

    def takes(self, shape) -> bool:
        return not self.only or shape.name in self.only

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        return [self._variant(problem, threads, file(problem)) for file in self.files]

    def _variant(self, problem: Problem, threads: int, path: Path) -> Variant:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        x = ort.OrtValue.ortvalue_from_numpy(problem.x.numpy())
        y = ort.OrtValue.ortvalue_from_numpy(np.empty(problem.reference.shape, np.float32))
        binding = session.io_binding()
        binding.bind_ortvalue_input(session.get_inputs()[0].name, x)
        binding.bind_ortvalue_output(session.get_outputs()[0].name, y)
        run = session.run_with_iobinding
        return Variant(lambda: run(binding), y.numpy, path.stem)


def _products(p: Problem) -> Path:
    return artefacts.onnx_qdq(p, only_products=True)


def integer() -> list[Contender]:
    from networks.zoo import TRANSFORMERS

    return [
        Session("ORT QDQ", "int8", artefacts.onnx_qdq, _products),
        Session("ORT dynamic", "int8", artefacts.onnx_dynamic, only=TRANSFORMERS),
    ]


INTEGER: list[Contender] = integer()
FLOATING_POINT: list[Contender] = [Session("ORT FP32", "fp32", artefacts.onnx_float)]
