"""qgemm: qgemm.ops on torch tensors, and qgemm.nn.SharedInputLinear."""

from __future__ import annotations

from ...contenders.base import Contender, Variant, returning
from .base import Kinds


def _packed(base, encoding: dict[str, float]):
    import torch

    from qgemm import _core

    return torch.from_numpy(_core.pack_linear(base.w, base.w_scale, bias=base.bias, **encoding))


class _Ours(Kinds):
    library = "qgemm"
    modules = ("torch", "qgemm.ops")
    ours = True

    def __init__(self, output: str, *kinds: str):
        self.output, self.kinds = output, kinds
        self.name = f"qgemm {output}"


class Signed(_Ours):
    def prepare(self, problem, threads: int) -> list[Variant]:
        import torch

        import qgemm.ops

        p, op = problem, qgemm.ops.linear
        packed = _packed(p.base, {"x_scale": p.base.x_scale, "x_zero_point": p.base.x_zero_point})
        x, n = torch.from_numpy(p.x), p.n
        if self.output == "s8":
            scale, zero_point = p.base.out_scale, p.out_zero_point
            return [returning(lambda: op(x, packed, n, torch.int8, scale, zero_point), lambda y: y.numpy())]
        return [returning(lambda: op(x, packed, n, torch.int32), lambda y: y.numpy())]


class Unsigned(_Ours):
    """The GEMM of uint8 by int8 of the same shape."""

    def prepare(self, problem, threads: int) -> list[Variant]:
        import torch

        import qgemm.ops

        b, op = problem.base, qgemm.ops.linear
        packed = _packed(b, {"x_scale": b.x_scale, "x_zero_point": b.x_zero_point})
        x, n, scale, zero_point = torch.from_numpy(b.x), b.n, b.out_scale, b.out_zero_point
        return [returning(lambda: op(x, packed, n, torch.uint8, scale, zero_point), lambda y: y.numpy())]


class Wide(_Ours):
    def prepare(self, problem, threads: int) -> list[Variant]:
        import torch

        import qgemm.ops

        p, op = problem, qgemm.ops.linear16
        packed, x = _packed(p.base, {}), torch.from_numpy(p.x)
        arguments = (x, packed, p.n, p.x_scale, p.x_zero_point, torch.uint16, p.out_scale, p.out_zero_point)
        return [returning(lambda: op(*arguments), lambda y: y.numpy())]


class Shared(_Ours):
    """qgemm.nn.SharedInputLinear. Its weights are quantized from the float ones."""

    def prepare(self, problem, threads: int) -> list[Variant]:
        import torch

        import qgemm

        layers = []
        for part in problem.layers:
            layer = torch.nn.Linear(problem.k, part.stop - part.start, device="meta").eval()
            layer.weight = torch.nn.Parameter(torch.from_numpy(problem.base.w_float[part]), requires_grad=False)
            layer.bias = torch.nn.Parameter(torch.from_numpy(problem.base.bias[part]), requires_grad=False)
            layers.append(layer)
        module = qgemm.nn.SharedInputLinear.from_float(layers, qgemm.W8A8Dynamic())
        x = torch.from_numpy(problem.base.x_float)
        return [returning(lambda: module(x), lambda outputs: torch.cat(outputs, -1).numpy())]


class Product(_Ours):
    def prepare(self, problem, threads: int) -> list[Variant]:
        import torch

        import qgemm.ops

        p, op = problem, qgemm.ops.matmul
        a, b = torch.from_numpy(p.a), torch.from_numpy(p.b_stored)
        b = b.mT if p.shape.transposed else b
        encodings = (p.a_scale, p.a_zero_point, p.b_scale, p.b_zero_point)
        out = {"u8": (torch.uint8, p.out_scale, p.out_zero_point), "s32": (torch.int32,), "f32": (torch.float32,)}
        arguments = (a, b, *encodings, *out[self.output.split()[1]])
        return [returning(lambda: op(*arguments), lambda y: y.numpy())]


CONTENDERS: list[Contender] = [
    Signed("s8", "signed"),
    Signed("s8 s32", "signed"),
    Wide("u16", "wide"),
    Shared("shared", "shared"),
    Product("product u8", "attention"),
    Product("product s32", "attention"),
    Product("product f32", "attention"),
    Unsigned("u8", "signed", "wide"),
]
