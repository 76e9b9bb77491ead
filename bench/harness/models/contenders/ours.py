"""qgemm programs: of the QDQ file that ONNX Runtime and OpenVINO get, of qgemm.quantize, of an AIMET simulation.

Their rows also say how long loading took and how long the first inference, which compiles, and what memory they hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

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

        path, x = self.make(problem), problem.x
        start = perf_counter()
        program = qgemm.load(path)
        loaded = perf_counter()
        program(x)
        seconds = {"load_seconds": loaded - start, "first_seconds": perf_counter() - loaded}
        variant = returning(lambda: program(x), lambda y: y.numpy())
        return [dataclasses.replace(variant, facts=seconds | program.memory)]


CONTENDERS: list[Contender] = [
    Loaded("qgemm, QDQ file", artefacts.onnx_qdq, "onnx", "onnxruntime"),
    Loaded("qgemm.quantize", artefacts.program_quantized, "onnx"),
    Loaded("qgemm.from_aimet", artefacts.program_aimet, "onnx", "aimet_torch"),
]
