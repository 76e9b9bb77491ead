"""PyTorch: integer operators where it has them, F.linear and matmul in FP32 and BF16."""

from __future__ import annotations

from ...contenders.base import Contender, Variant, returning
from ...contenders.pytorch import DynamicLinear, OneDNN
from .base import Kinds


class IntMM(Kinds):
    """torch._int_mm on int8: no zero point, no scale, no bias. The second operand in either memory order."""

    name = "torch._int_mm"
    library = "torch"
    output = "s8 s32"
    kinds = ("signed",)
    modules = ("torch",)
    adds_bias = False
    subtracts_zero_point = False

    def prepare(self, problem, threads: int) -> list[Variant]:
        import torch

        x, wt = torch.from_numpy(problem.x), torch.from_numpy(problem.base.w_transposed)
        rows = torch.from_numpy(problem.base.w).t()
        return [
            returning(lambda: torch._int_mm(x, wt), lambda y: y.numpy(), "w [K, N]"),
            returning(lambda: torch._int_mm(x, rows), lambda y: y.numpy(), "w [N, K]"),
        ]


class SignedOneDNN(Kinds):
    """onednn.qlinear_pointwise on int8, which is left to oneDNN's reference code: seconds a call where there are more operations."""

    name = "onednn.qlinear s8"
    library = "torch"
    output = "s8"
    kinds = ("signed",)
    modules = ("torch",)

    def missing(self) -> str | None:
        return OneDNN("u8").missing()

    def takes(self, shape) -> bool:
        return super().takes(shape) and shape.ops <= 1e7

    def prepare(self, problem, threads: int) -> list[Variant]:
        import torch

        p, b = problem, problem.base
        x = torch.from_numpy(p.x)
        weight = torch.ops.onednn.qlinear_prepack(torch.from_numpy(b.w), [p.m, p.k])
        encodings = (torch.from_numpy(b.w_scale), torch.zeros(p.n, dtype=torch.int32), torch.from_numpy(b.bias))
        op = torch.ops.onednn.qlinear_pointwise.default
        arguments = (x, b.x_scale, p.x_zero_point, weight, *encodings, b.out_scale, p.out_zero_point, torch.int8, "none", [], "")
        return [returning(lambda: op(*arguments), lambda y: y.numpy())]


class SharedDynamic(DynamicLinear):
    """quantized.linear_dynamic, once for each layer or on the layers' weights joined."""

    output = "shared"

    def __init__(self, engine: str):
        super().__init__(engine)
        self.name = f"torch.ao {engine} shared"

    def takes(self, shape) -> bool:
        return shape.kind == "shared"

    def prepare(self, problem, threads: int) -> list[Variant]:
        import torch

        p = problem
        x, whole = torch.from_numpy(p.base.x_float), self._pack_part(p, slice(0, p.n))
        parts = [self._pack_part(p, layer) for layer in p.layers]
        sizes, op = list(p.shape.parts), torch.ops.quantized.linear_dynamic.default
        joined = returning(lambda: op(x, whole, False).split_with_sizes(sizes, -1), lambda y: torch.cat(y, -1).numpy(), "joined")
        apart = returning(lambda: [op(x, packed, False) for packed in parts], lambda y: torch.cat(y, -1).numpy(), "apart")
        return [joined, apart]

    def _pack_part(self, problem, layer: slice):
        import torch

        b, before = problem.base, torch.backends.quantized.engine
        torch.backends.quantized.engine = self.engine
        try:
            scales = torch.from_numpy(b.w_scale[layer]).double()
            zero_points = torch.zeros(len(scales), dtype=torch.int64)
            w = torch._make_per_channel_quantized_tensor(torch.from_numpy(b.w[layer]), scales, zero_points, 0)
            return torch.ops.quantized.linear_prepack(w, torch.from_numpy(b.bias[layer]))
        finally:
            torch.backends.quantized.engine = before


class Float(Kinds):
    """torch.nn.functional.linear, and torch.matmul for the kind attention"""

    library = "torch"
    kinds = ("signed", "wide", "shared", "attention")
    modules = ("torch",)

    def __init__(self, output: str):
        self.output = output
        self.name = f"torch {output.upper()}"

    def prepare(self, problem, threads: int) -> list[Variant]:
        import torch

        p, dtype = problem, torch.float32 if self.output == "fp32" else torch.bfloat16
        if p.shape.kind == "attention":
            a, b = (torch.from_numpy(t).to(dtype) for t in p.float_operands())
            b = b.mT if p.shape.transposed else b
            return [returning(lambda: torch.bmm(a, b), lambda y: y.float().numpy())]
        x, w, bias = (torch.from_numpy(t).to(dtype) for t in (p.base.x_float, p.base.w_float, p.base.bias))
        linear = torch.nn.functional.linear
        if p.shape.kind == "shared":
            sizes = list(p.shape.parts)
            split = returning(lambda: linear(x, w, bias).split_with_sizes(sizes, -1), lambda y: torch.cat(y, -1).float().numpy(), "joined")
            layers = [(w[layer], bias[layer]) for layer in p.layers]
            return [split, returning(lambda: [linear(x, *wb) for wb in layers], lambda y: torch.cat(y, -1).float().numpy(), "apart")]
        return [returning(lambda: linear(x, w, bias), lambda y: y.float().numpy())]


INTEGER: list[Contender] = [IntMM(), SignedOneDNN(), SharedDynamic("x86"), SharedDynamic("fbgemm")]
FLOATING_POINT: list[Contender] = [Float("fp32"), Float("bf16")]
