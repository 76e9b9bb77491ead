"""qgemm: as PyTorch functions (qgemm.ops), and the engine below them on numpy arrays."""

from __future__ import annotations

import numpy as np

from ..problem import Problem, aligned
from .base import Contender, Variant, returning


def _packed(p: Problem, static: bool) -> np.ndarray:
    from qgemm import _core

    encoding = {"x_scale": p.x_scale, "x_zero_point": p.x_zero_point} if static else {}
    return _core.pack_linear(p.w, p.w_scale, bias=p.bias, **encoding)


class Operator(Contender):
    """qgemm.ops.linear on torch tensors"""

    library = "qgemm"
    modules = ("torch", "qgemm.ops")
    ours = True

    def __init__(self, output: str):
        self.output = output
        self.name = f"qgemm {output}"

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        import qgemm.ops

        x, packed, n = torch.from_numpy(problem.x), torch.from_numpy(_packed(problem, static=True)), problem.n
        dtype = {"u8": torch.uint8, "s32": torch.int32, "f32": torch.float32}[self.output]
        epilogue = (problem.out_scale, problem.out_zero_point) if self.output == "u8" else ()
        op = qgemm.ops.linear
        return [returning(lambda: op(x, packed, n, dtype, *epilogue), lambda y: y.numpy())]


class DynamicOperator(Contender):
    """qgemm.ops.linear_dynamic on torch tensors"""

    name = "qgemm dynamic"
    library = "qgemm"
    output = "dynamic"
    modules = ("torch", "qgemm.ops")
    ours = True

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        import qgemm.ops

        x, packed, n = torch.from_numpy(problem.x_float), torch.from_numpy(_packed(problem, static=False)), problem.n
        op = qgemm.ops.linear_dynamic
        return [returning(lambda: op(x, packed, n), lambda y: y.numpy())]


class Module(Contender):
    """qgemm.nn.Linear, called as a module of a network is. Its weights are quantized from the float ones."""

    name = "qgemm.nn.Linear"
    library = "qgemm"
    output = "dynamic"
    modules = ("torch", "qgemm.nn")
    ours = True

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        import qgemm

        linear = torch.nn.Linear(problem.k, problem.n, device="meta").eval()
        linear.weight = torch.nn.Parameter(torch.from_numpy(problem.w_float), requires_grad=False)
        linear.bias = torch.nn.Parameter(torch.from_numpy(problem.bias), requires_grad=False)
        module, x = qgemm.nn.Linear.from_float(linear, qgemm.W8A8Dynamic()), torch.from_numpy(problem.x_float)
        return [returning(lambda: module(x), lambda y: y.numpy())]


class Engine(Contender):
    """qgemm._core on numpy arrays, the output allocated once."""

    library = "qgemm"
    modules = ("qgemm._core",)
    ours = True

    def __init__(self, output: str):
        self.output = output
        self.name = f"qgemm engine {output}"

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        from qgemm import _core

        packed = _packed(problem, static=self.output != "dynamic")
        if self.output == "dynamic":
            y, x = aligned(np.empty((problem.m, problem.n), np.float32)), problem.x_float
            return [Variant(lambda: _core.linear_dynamic(x, packed, y), lambda: y)]
        y, x = aligned(np.empty((problem.m, problem.n), np.uint8 if self.output == "u8" else np.int32)), problem.x
        if self.output == "s32":
            return [Variant(lambda: _core.linear(x, packed, y), lambda: y)]
        scale, zero_point = problem.out_scale, problem.out_zero_point
        return [Variant(lambda: _core.linear(x, packed, y, scale, zero_point), lambda: y)]


CONTENDERS: list[Contender] = [
    Operator("u8"),
    Operator("s32"),
    Operator("f32"),
    DynamicOperator(),
    Module(),
    Engine("u8"),
    Engine("s32"),
    Engine("dynamic"),
]
