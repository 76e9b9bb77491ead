"""OpenVINO: a MatMul between FakeQuantize nodes, and one that quantizes its input at run time. Inputs shared, outputs not copied."""

from __future__ import annotations

import numpy as np

from ..problem import Problem
from .base import Contender, Variant


class _Compiled(Contender):
    library = "openvino"
    modules = ("openvino",)

    def _weights(self, problem: Problem):
        from openvino import opset13 as op

        return op.multiply(op.convert(op.constant(problem.w), "f32"), op.constant(problem.w_scale[:, None]))

    def _variant(self, y, parameter, x: np.ndarray, threads: int, name: str = "", **options) -> Variant:
        import openvino as ov

        # Without the hint the float parts run in bf16 where the CPU has it, and the result is no longer FP32's.
        config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", **options}
        request = ov.Core().compile_model(ov.Model([y], [parameter], "linear"), "CPU", config).create_infer_request()
        request.set_input_tensor(0, ov.Tensor(x, shared_memory=True))
        return Variant(lambda: request.infer(None, share_outputs=True), lambda: request.get_output_tensor(0).data, name)


class FakeQuantized(_Compiled):
    name = "OpenVINO u8"
    output = "u8"

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import openvino as ov
        from openvino import opset13 as op

        p = problem
        parameter = op.parameter([p.m, p.k], ov.Type.u8)
        centred = op.subtract(op.convert(parameter, "f32"), op.constant(np.float32(p.x_zero_point)))
        x = op.multiply(centred, op.constant(np.float32(p.x_scale)))
        y = op.add(op.matmul(x, self._weights(p), False, True), op.constant(p.bias[None]))
        low, high = (np.float32(p.out_scale * (q - p.out_zero_point)) for q in (0, 255))
        q = op.convert(op.fake_quantize(y, low, high, np.float32(0), np.float32(255), 256), "u8")
        return [self._variant(q, parameter, p.x, threads)]


class Dynamic(_Compiled):
    """int8 weights, float activations: quantized by row (a group as long as K) or in its default groups."""

    name = "OpenVINO dynamic"
    output = "dynamic"

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        import openvino as ov
        from openvino import opset13 as op

        variants = []
        for name, options in (("a group a row", {"DYNAMIC_QUANTIZATION_GROUP_SIZE": problem.k}), ("default groups", {})):
            parameter = op.parameter([problem.m, problem.k], ov.Type.f32)
            y = op.add(op.matmul(parameter, self._weights(problem), False, True), op.constant(problem.bias[None]))
            variants.append(self._variant(y, parameter, problem.x_float, threads, name, **options))
        return variants


CONTENDERS: list[Contender] = [FakeQuantized(), Dynamic()]
