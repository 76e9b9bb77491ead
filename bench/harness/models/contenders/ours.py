"""qgemm programs: of the QDQ file that ONNX Runtime and OpenVINO get, of qgemm.quantize, of an AIMET simulation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...contenders.base import Contender, Variant, returning
from .. import artefacts
from ..problem import Problem


class Loaded(Contender):
    library = "qgemm"
    output = "int8"
    ours = True

    def __init__(self, name: str, make: Callable[[Problem], Path], *needs: str):
        self.name, self.make, self.modules = name, make, ("torch", "qgemm", *needs)

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import qgemm

        program, x = qgemm.load(self.make(problem)), problem.x
        return [returning(lambda: program(x), lambda y: y.numpy())]


CONTENDERS: list[Contender] = [
    Loaded("qgemm, QDQ file", artefacts.onnx_qdq, "onnx", "onnxruntime"),
    Loaded("qgemm.quantize", artefacts.program_quantized, "onnx"),
    Loaded("qgemm.from_aimet", artefacts.program_aimet, "onnx", "aimet_torch"),
]
