"""PyTorch: eager and compiled FP32, BF16, and int8 through FX, PT2E or dynamic quantization."""

from __future__ import annotations

import copy
from typing import Any

from networks import zoo

from ...contenders.base import Contender, Variant, returning
from .. import artefacts
from ..problem import Problem


class Eager(Contender):
    """Contiguous, and channels_last for images."""

    library = "torch"
    modules = ("torch",)

    def __init__(self, output: str):
        self.output = output
        self.name = f"torch {output.upper()}"

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        variants = []
        orders = (torch.channels_last, torch.contiguous_format) if problem.x.dim() == 4 else (torch.contiguous_format,)
        for order in orders:
            x, model = problem.x, problem.model
            if order is torch.channels_last:
                x, model = x.contiguous(memory_format=order), copy.deepcopy(model).to(memory_format=order)
            if self.output == "bf16":
                x, model = (x.bfloat16() if x.is_floating_point() else x), copy.deepcopy(model).bfloat16()
            call = lambda model=model, x=x: model(x)  # noqa: E731
            variants.append(returning(call, lambda y: y.float().numpy(), str(order).removeprefix("torch.")))
        return variants


class Packaged(Contender):
    """Compiled by Inductor ahead of time, weights frozen."""

    library = "torch"

    def __init__(self, name: str, output: str, make: Any, *needs: str):
        self.name, self.output, self.make, self.modules = name, output, make, ("torch", *needs)

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch._inductor

        package, x = torch._inductor.aoti_load_package(str(self.make(problem))), problem.x

        def result(y: Any) -> Any:
            return (y[0] if isinstance(y, tuple | list) else y).numpy()

        return [returning(lambda: package(x), result)]


class FX(Contender):
    """torch.ao FX graph mode with the engine x86, static and per channel."""

    name = "torch FX int8"
    library = "torch"
    output = "int8"
    modules = ("torch",)

    def takes(self, shape) -> bool:
        return shape.name not in zoo.TRANSFORMERS

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch
        from torch.ao.quantization import get_default_qconfig_mapping
        from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

        with torch.inference_mode(False), torch.no_grad():
            x = problem.x.clone()
            prepared = prepare_fx(copy.deepcopy(problem.model), get_default_qconfig_mapping("x86"), (x,))
            for batch in artefacts.calibration(problem):
                prepared(batch)
            model = convert_fx(prepared)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return [returning(lambda: model(x), lambda y: y.numpy())]


class Dynamic(Contender):
    """torch.ao quantize_dynamic: Linear layers."""

    name = "torch dynamic int8"
    library = "torch"
    output = "int8"
    modules = ("torch",)

    def takes(self, shape) -> bool:
        return shape.name in zoo.TRANSFORMERS

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        with torch.inference_mode(False), torch.no_grad():
            model = torch.ao.quantization.quantize_dynamic(copy.deepcopy(problem.model), {torch.nn.Linear}, torch.qint8)
        x = problem.x
        return [returning(lambda: model(x), lambda y: y.numpy())]


INTEGER: list[Contender] = [Packaged("torch PT2E int8", "int8", artefacts.compiled_pt2e, "torchao"), FX(), Dynamic()]
FLOATING_POINT: list[Contender] = [
    Eager("fp32"),
    Packaged("torch FP32 compiled", "fp32", artefacts.compiled_float),
    Eager("bf16"),
]
