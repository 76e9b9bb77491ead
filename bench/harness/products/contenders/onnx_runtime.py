"""ONNX Runtime: its quantized operators, and quantize and dequantize nodes about a MatMul where it has no integer kernel."""

from __future__ import annotations

import numpy as np

from ...contenders.base import Contender, Variant
from ...contenders.onnx_runtime import bound
from .base import Kinds


class _Session(Kinds):
    library = "onnxruntime"
    modules = ("onnx", "onnxruntime")


def _node(operator: str, inputs: str, output: str = "y", contributed: bool = False):
    from onnx import helper

    return helper.make_node(operator, inputs.split(), [output], domain="com.microsoft" if contributed else "")


class Signed(_Session):
    """QLinearMatMul and MatMulInteger on int8; both without a bias."""

    kinds = ("signed",)
    adds_bias = False

    def __init__(self, name: str, output: str):
        self.name, self.output = name, output

    def prepare(self, problem, threads: int) -> list[Variant]:
        p, b = problem, problem.base
        constants = {"w": b.w_transposed, "x_zero": np.int8(p.x_zero_point)}
        if self.output == "s8 s32":
            outputs = {"y": ((p.m, p.n), np.int32)}
            return [bound(threads, [_node("MatMulInteger", "x w x_zero")], constants, {"x": p.x}, outputs)]
        constants |= {"x_scale": np.float32(b.x_scale), "w_scale": b.w_scale, "w_zero": np.zeros(p.n, np.int8)}
        constants |= {"y_scale": np.float32(b.out_scale), "y_zero": np.int8(p.out_zero_point)}
        node = _node("QLinearMatMul", "x x_scale x_zero w w_scale w_zero y_scale y_zero")
        return [bound(threads, [node], constants, {"x": p.x}, {"y": ((p.m, p.n), np.int8)})]


class Wide(_Session):
    """Dequantize, MatMul, quantize: no integer kernel takes 16 bits."""

    name = "ORT QDQ u16"
    output = "u16"
    kinds = ("wide",)

    def prepare(self, problem, threads: int) -> list[Variant]:
        p, b = problem, problem.base
        # The weight as integers: a float one between such nodes is quantized by an optimizer, on a grid of its own.
        nodes = [
            _node("DequantizeLinear", "x x_scale x_zero", "xf"),
            _node("DequantizeLinear", "w w_scale", "wf"),
            _node("Gemm", "xf wf bias", "yf"),
            _node("QuantizeLinear", "yf y_scale y_zero"),
        ]
        constants = {"w": b.w_transposed, "w_scale": b.w_scale, "bias": b.bias, "x_scale": np.float32(p.x_scale)}
        constants |= {"x_zero": np.uint16(p.x_zero_point), "y_scale": np.float32(p.out_scale), "y_zero": np.uint16(p.out_zero_point)}
        return [bound(threads, nodes, constants, {"x": p.x}, {"y": ((p.m, p.n), np.uint16)})]


class Shared(_Session):
    """DynamicQuantizeMatMul of the joined weights; one for each layer; and the input quantized once, then MatMulIntegerToFloat."""

    name = "ORT shared"
    output = "shared"
    kinds = ("shared",)

    def prepare(self, problem, threads: int) -> list[Variant]:
        p, b = problem, problem.base
        inputs = {"x": b.x_float}

        def constants(layers: list[slice]) -> dict[str, np.ndarray]:
            found = {}
            for i, layer in enumerate(layers):
                found |= {f"w{i}": np.ascontiguousarray(b.w[layer].T), f"s{i}": b.w_scale[layer], f"b{i}": b.bias[layer]}
                found[f"z{i}"] = np.zeros(len(b.bias[layer]), np.int8)
            return found

        def each(make, layers: list[slice], first=(), name: str = "") -> Variant:
            nodes = [*first, *(make(i) for i in range(len(layers)))]
            outputs = {f"y{i}": ((p.m, layer.stop - layer.start), np.float32) for i, layer in enumerate(layers)}
            return bound(threads, nodes, constants(layers), inputs, outputs, name)

        from onnx import helper

        def dynamic(i: int):
            return _node("DynamicQuantizeMatMul", f"x w{i} s{i} z{i} b{i}", f"y{i}", True)

        def product(i: int):
            return _node("MatMulIntegerToFloat", f"q w{i} q_scale s{i} q_zero z{i} b{i}", f"y{i}", True)

        quantize = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "q_scale", "q_zero"])
        return [
            each(dynamic, [slice(0, p.n)], name="joined"),
            each(dynamic, p.layers, name="apart"),
            each(product, p.layers, [quantize], "quantized once"),
        ]


class Product(_Session):
    """QLinearMatMul, MatMulInteger and MatMulIntegerToFloat of two inputs, the second one in the order that they take: [K, N], as
    uint8 and as int8."""

    kinds = ("attention",)

    def __init__(self, name: str, output: str):
        self.name, self.output = name, output

    def prepare(self, problem, threads: int) -> list[Variant]:
        return [self._variant(problem, threads, signed) for signed in (False, True)]

    def _variant(self, p, threads: int, signed: bool) -> Variant:
        b = (p.b ^ 0x80).view(np.int8) if signed else p.b
        b_zero = np.int8(p.b_zero_point - 128) if signed else np.uint8(p.b_zero_point)
        constants = {"a_zero": np.uint8(p.a_zero_point), "b_zero": b_zero}
        dtype = {"product u8": np.uint8, "product s32": np.int32, "product f32": np.float32}[self.output]
        if self.output == "product s32":
            node = _node("MatMulInteger", "a b a_zero b_zero")
        else:
            constants |= {"a_scale": np.float32(p.a_scale), "b_scale": np.float32(p.b_scale)}
            node = _node("MatMulIntegerToFloat", "a b a_scale b_scale a_zero b_zero", contributed=True)
        if self.output == "product u8":
            constants |= {"y_scale": np.float32(p.out_scale), "y_zero": np.uint8(p.out_zero_point)}
            node = _node("QLinearMatMul", "a a_scale a_zero b b_scale b_zero y_scale y_zero")
        inputs = {"a": p.a, "b": b}
        return bound(threads, [node], constants, inputs, {"y": ((p.batch, p.m, p.n), dtype)}, "b int8" if signed else "b uint8")


CONTENDERS: list[Contender] = [
    Signed("ORT QLinearMatMul s8", "s8"),
    Signed("ORT MatMulInteger s8", "s8 s32"),
    Wide(),
    Shared(),
    Product("ORT QLinearMatMul", "product u8"),
    Product("ORT MatMulInteger", "product s32"),
    Product("ORT MatMulIntegerToFloat", "product f32"),
]
