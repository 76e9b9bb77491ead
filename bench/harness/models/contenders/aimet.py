"""The AIMET simulation: float32 with fake quantization, parameters quantized on every call or folded once."""

from __future__ import annotations

from ...contenders.base import Contender, Variant, returning
from .. import artefacts
from ..problem import Problem


class Simulation(Contender):
    library = "aimet"
    output = "simulation"
    modules = ("torch", "aimet_torch")

    def __init__(self, folded: bool):
        self.folded = folded
        self.name = "AIMET simulation" + (", folded" if folded else "")

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        with torch.inference_mode(False), torch.no_grad():
            sim = artefacts.simulation(problem)
            if self.folded:
                sim.fold_param_quantizers()
        model, x = sim.model, problem.x
        return [returning(lambda: model(x), lambda y: y.as_subclass(torch.Tensor).numpy())]


CONTENDERS: list[Contender] = [Simulation(folded=False), Simulation(folded=True)]
