"""PyTorch's own integer paths, and its FP32 and BF16 ones.

The operators are those that torch.compile and torch.ao lower to, called directly with weights packed beforehand: no Python of torch's
own stands between.
"""

from __future__ import annotations

from ..problem import Problem
from .base import Contender, Variant, returning


class IntMM(Contender):
    """torch._int_mm: no zero point, no scale, no bias. The second operand in either memory order."""

    name = "torch._int_mm"
    library = "torch"
    output = "s32"
    modules = ("torch",)
    adds_bias = False
    subtracts_zero_point = False

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        x, w, wt = torch.from_numpy(problem.x), torch.from_numpy(problem.w), torch.from_numpy(problem.w_transposed)
        rows = w.t()
        return [
            returning(lambda: torch._int_mm(x, wt), lambda y: y.numpy(), "w [K, N]"),
            returning(lambda: torch._int_mm(x, rows), lambda y: y.numpy(), "w [N, K]"),
        ]


class OneDNN(Contender):
    """onednn.qlinear_pointwise, what Inductor emits for a PT2E-quantized Linear on x86."""

    library = "torch"
    modules = ("torch",)

    def __init__(self, output: str):
        self.output = output
        self.name = f"onednn.qlinear {output}"

    def missing(self) -> str | None:
        reason = super().missing()
        if reason is None:
            import torch

            if not hasattr(torch.ops.onednn, "qlinear_prepack"):
                return f"torch {torch.__version__} is built without oneDNN's quantized operators"
        return reason

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        p = problem
        x = torch.from_numpy(p.x)
        weight = torch.ops.onednn.qlinear_prepack(torch.from_numpy(p.w), [p.m, p.k])
        w_scale, w_zero_point = torch.from_numpy(p.w_scale), torch.zeros(p.n, dtype=torch.int32)
        bias = torch.from_numpy(p.bias)
        out = (p.out_scale, p.out_zero_point, torch.uint8) if self.output == "u8" else (1.0, 0, torch.float32)
        op = torch.ops.onednn.qlinear_pointwise.default
        arguments = (x, p.x_scale, p.x_zero_point, weight, w_scale, w_zero_point, bias, *out, "none", [], "")
        return [returning(lambda: op(*arguments), lambda y: y.numpy())]


class _Engine(Contender):
    """An engine of torch.ao; the packed weight remembers which one made it."""

    library = "torch"
    modules = ("torch",)

    def __init__(self, engine: str):
        self.engine = engine

    def missing(self) -> str | None:
        reason = super().missing()
        if reason is None:
            import torch

            if self.engine not in torch.backends.quantized.supported_engines:
                return f"torch {torch.__version__} is built without the engine '{self.engine}'"
        return reason

    def _pack(self, problem: Problem):
        import torch

        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = self.engine
        try:
            zero_points = torch.zeros(problem.n, dtype=torch.int64)
            scales = torch.from_numpy(problem.w_scale).double()
            w = torch._make_per_channel_quantized_tensor(torch.from_numpy(problem.w), scales, zero_points, 0)
            return torch.ops.quantized.linear_prepack(w, torch.from_numpy(problem.bias))
        finally:
            torch.backends.quantized.engine = before


class QuantizedLinear(_Engine):
    """quantized.linear: what torch.ao.nn.quantized.Linear calls."""

    output = "u8"

    def __init__(self, engine: str):
        super().__init__(engine)
        self.name = f"torch.ao {engine} u8"

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        x = torch._make_per_tensor_quantized_tensor(torch.from_numpy(problem.x), problem.x_scale, problem.x_zero_point)
        packed, scale, zero_point = self._pack(problem), problem.out_scale, problem.out_zero_point
        op = torch.ops.quantized.linear.default
        return [returning(lambda: op(x, packed, scale, zero_point), lambda y: y.int_repr().numpy())]


class DynamicLinear(_Engine):
    """quantized.linear_dynamic: what torch.ao.nn.quantized.dynamic.Linear calls."""

    output = "dynamic"

    def __init__(self, engine: str):
        super().__init__(engine)
        self.name = f"torch.ao {engine} dynamic"

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        x, packed = torch.from_numpy(problem.x_float), self._pack(problem)
        op = torch.ops.quantized.linear_dynamic.default
        return [returning(lambda: op(x, packed, False), lambda y: y.numpy())]


class Linear(Contender):
    """torch.nn.functional.linear"""

    library = "torch"
    modules = ("torch",)

    def __init__(self, output: str):
        self.output = output
        self.name = f"torch {output.upper()}"

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        dtype = torch.float32 if self.output == "fp32" else torch.bfloat16
        x, w, bias = (torch.from_numpy(a).to(dtype) for a in (problem.x_float, problem.w_float, problem.bias))
        linear = torch.nn.functional.linear
        return [returning(lambda: linear(x, w, bias), lambda y: y.float().numpy())]


class PackedLinear(Linear):
    """mkldnn._linear_pointwise, what Inductor emits for a frozen Linear: oneDNN with the weight packed for this M."""

    def __init__(self, output: str):
        super().__init__(output)
        self.name = f"torch {output.upper()} packed"

    def missing(self) -> str | None:
        reason = super().missing()
        if reason is None:
            import torch

            if not torch.backends.mkldnn.is_available():
                return f"torch {torch.__version__} is built without oneDNN"
        return reason

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import torch

        dtype = torch.float32 if self.output == "fp32" else torch.bfloat16
        x, w, bias = (torch.from_numpy(a).to(dtype) for a in (problem.x_float, problem.w_float, problem.bias))
        packed = torch.ops.mkldnn._reorder_linear_weight(w, problem.m)
        op = torch.ops.mkldnn._linear_pointwise.default
        return [returning(lambda: op(x, packed, bias, "none", [], ""), lambda y: y.float().numpy())]


INTEGER: list[Contender] = [
    OneDNN("u8"),
    OneDNN("f32"),
    QuantizedLinear("x86"),
    QuantizedLinear("fbgemm"),
    IntMM(),
    DynamicLinear("x86"),
    DynamicLinear("fbgemm"),
]
FLOATING_POINT: list[Contender] = [Linear("fp32"), PackedLinear("fp32"), Linear("bf16"), PackedLinear("bf16")]
