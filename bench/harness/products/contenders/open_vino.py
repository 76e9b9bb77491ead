"""OpenVINO: MatMul between FakeQuantize nodes, and int8 weights whose input is quantized at run time."""

from __future__ import annotations

import numpy as np

from ...contenders.base import Contender, Variant
from .base import Kinds


class _Compiled(Kinds):
    library = "openvino"
    modules = ("openvino",)

    def __init__(self, name: str, output: str, kind: str):
        self.name, self.output, self.kinds = name, output, (kind,)

    @staticmethod
    def _variant(ys, parameters, inputs: list[np.ndarray], threads: int, name: str = "", **options) -> Variant:
        import openvino as ov

        # As in harness.contenders.open_vino: floating-point parts stay float32.
        config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", **options}
        request = ov.Core().compile_model(ov.Model(ys, parameters, "product"), "CPU", config).create_infer_request()
        for i, x in enumerate(inputs):
            request.set_input_tensor(i, ov.Tensor(x, shared_memory=True))

        def call(kept=tuple(inputs)) -> None:  # the shared tensors do not keep their memory alive
            request.infer(None, share_outputs=True)

        return Variant(call, lambda: np.concatenate([request.get_output_tensor(i).data for i in range(len(ys))], -1), name)

    @staticmethod
    def _dequantized(parameter, scale: float, zero_point: int):
        from openvino import opset13 as op

        return op.multiply(op.subtract(op.convert(parameter, "f32"), op.constant(np.float32(zero_point))), op.constant(np.float32(scale)))

    @staticmethod
    def _weights(problem, layer: slice = slice(None)):
        from openvino import opset13 as op

        return op.multiply(op.convert(op.constant(problem.base.w[layer]), "f32"), op.constant(problem.base.w_scale[layer, None]))

    @staticmethod
    def _quantized(y, scale: float, zero_point: int, least: int, dtype: str, levels: int = 256):
        from openvino import opset13 as op

        ends = least, least + levels - 1
        low, high = (np.float32(scale * (q - zero_point)) for q in ends)
        return op.convert(op.fake_quantize(y, low, high, np.float32(ends[0]), np.float32(ends[1]), levels), dtype)


class Linear(_Compiled):
    """The kinds signed and wide. 16 bits are computed in float32."""

    def prepare(self, problem, threads: int) -> list[Variant]:
        import openvino as ov
        from openvino import opset13 as op

        p, b = problem, problem.base
        wide = self.output == "u16"
        parameter = op.parameter([p.m, p.k], ov.Type.u16 if wide else ov.Type.i8)
        x = self._dequantized(parameter, p.x_scale if wide else b.x_scale, p.x_zero_point)
        y = op.add(op.matmul(x, self._weights(p), False, True), op.constant(b.bias[None]))
        if wide:
            q = self._quantized(y, p.out_scale, p.out_zero_point, 0, "u16", 65536)
        else:
            q = self._quantized(y, b.out_scale, p.out_zero_point, -128, "i8")
        # Or 16 bits would be quantized to 8 at run time.
        options = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0} if wide else {}
        return [self._variant([q], [parameter], [p.x], threads, **options)]


class Shared(_Compiled):
    """Weights joined or apart, the input quantized by row (a group as long as K) or in the default groups."""

    def prepare(self, problem, threads: int) -> list[Variant]:
        import openvino as ov
        from openvino import opset13 as op

        p = problem
        variants = []
        for name, layers in (("joined", [slice(0, p.n)]), ("apart", p.layers)):
            for groups, options in (("a group a row", {"DYNAMIC_QUANTIZATION_GROUP_SIZE": p.k}), ("default groups", {})):
                x = op.parameter([p.m, p.k], ov.Type.f32)
                biases = [op.constant(p.base.bias[None, layer]) for layer in layers]
                products = [op.matmul(x, self._weights(p, layer), False, True) for layer in layers]
                ys = [op.add(y, bias) for y, bias in zip(products, biases, strict=True)]
                variants.append(self._variant(ys, [x], [p.base.x_float], threads, f"{name}, {groups}", **options))
        return variants


class Product(_Compiled):
    """Both operands inputs, the second as it is stored."""

    def prepare(self, problem, threads: int) -> list[Variant]:
        import openvino as ov
        from openvino import opset13 as op

        p = problem
        a, b = op.parameter(list(p.a.shape), ov.Type.u8), op.parameter(list(p.b_stored.shape), ov.Type.u8)
        x, w = self._dequantized(a, p.a_scale, p.a_zero_point), self._dequantized(b, p.b_scale, p.b_zero_point)
        y = op.matmul(x, w, False, p.shape.transposed)
        if self.output == "product u8":
            y = self._quantized(y, p.out_scale, p.out_zero_point, 0, "u8")
        return [self._variant([y], [a, b], [p.a, p.b_stored], threads)]


CONTENDERS: list[Contender] = [
    Linear("OpenVINO s8", "s8", "signed"),
    Linear("OpenVINO u16", "u16", "wide"),
    Shared("OpenVINO shared", "shared", "shared"),
    Product("OpenVINO product u8", "product u8", "attention"),
    Product("OpenVINO product f32", "product f32", "attention"),
]
