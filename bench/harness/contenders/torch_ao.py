"""torchao: int8 weights, activations quantized by row at run time, under torch.compile as its documentation asks."""

from __future__ import annotations

from ..problem import Problem
from .base import Contender, Variant, returning


class Int8Dynamic(Contender):
    name = "torchao dynamic"
    library = "torchao"
    output = "dynamic"
    modules = ("torch", "torchao")

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        # quantize_ replaces the weight of a child, so the Linear needs a parent.
        model = torch.nn.Sequential(torch.nn.Linear(problem.k, problem.n, device="meta")).eval()
        linear = model[0]
        linear.weight = torch.nn.Parameter(torch.from_numpy(problem.w_float), requires_grad=False)
        linear.bias = torch.nn.Parameter(torch.from_numpy(problem.bias), requires_grad=False)
        quantize_(model, Int8DynamicActivationInt8WeightConfig())
        # Compiled code is kept for a limited number of shapes, beyond which everything would run uncompiled.
        torch._dynamo.reset()
        compiled, x = torch.compile(model, dynamic=False), torch.from_numpy(problem.x_float)
        compiled(x)
        return [returning(lambda: compiled(x), lambda y: y.numpy())]


CONTENDERS: list[Contender] = [Int8Dynamic()]
