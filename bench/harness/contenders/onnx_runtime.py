"""ONNX Runtime: its quantized operators one by one, weights as initializers (which it packs at load), operands bound once.

The threads of the pool spin between calls, its default.
"""

from __future__ import annotations

import numpy as np

from ..problem import Problem
from .base import Contender, Variant


class _Session(Contender):
    library = "onnxruntime"
    modules = ("onnx", "onnxruntime")

    def _variant(self, problem: Problem, threads: int, node, constants: dict[str, np.ndarray], x: np.ndarray, y_type, name: str = ""):
        import onnxruntime as ort
        from onnx import TensorProto, helper, numpy_helper

        types = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int32): TensorProto.INT32, np.dtype(np.float32): TensorProto.FLOAT}
        y = np.empty((problem.m, problem.n), y_type)
        graph = helper.make_graph(
            [node],
            "linear",
            [helper.make_tensor_value_info("x", types[x.dtype], x.shape)],
            [helper.make_tensor_value_info("y", types[y.dtype], y.shape)],
            [numpy_helper.from_array(np.asarray(a), key) for key, a in constants.items()],
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        x_value, y_value = ort.OrtValue.ortvalue_from_numpy(x), ort.OrtValue.ortvalue_from_numpy(y)
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", x_value)
        binding.bind_ortvalue_output("y", y_value)
        run = session.run_with_iobinding
        return Variant(lambda: run(binding), y_value.numpy, name)

    @staticmethod
    def _encodings(p: Problem) -> dict[str, np.ndarray]:
        return {
            "x_scale": np.float32(p.x_scale),
            "x_zero": np.uint8(p.x_zero_point),
            "w_scale": p.w_scale,
            "w_zero": np.zeros(p.n, np.int8),
            "y_scale": np.float32(p.out_scale),
            "y_zero": np.uint8(p.out_zero_point),
        }


class QGemm(_Session):
    name = "ORT QGemm u8"
    output = "u8"

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        from onnx import helper

        inputs = ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "bias", "y_scale", "y_zero"]
        node = helper.make_node("QGemm", inputs, ["y"], domain="com.microsoft")
        constants = {**self._encodings(problem), "w": problem.w_transposed, "bias": problem.bias_int32}
        return [self._variant(problem, threads, node, constants, problem.x, np.uint8)]


class QLinearMatMul(_Session):
    """Has no bias."""

    name = "ORT QLinearMatMul u8"
    output = "u8"
    adds_bias = False

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        from onnx import helper

        node = helper.make_node("QLinearMatMul", ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"], ["y"])
        return [self._variant(problem, threads, node, {**self._encodings(problem), "w": problem.w_transposed}, problem.x, np.uint8)]


class MatMulInteger(_Session):
    """Has no bias and no scales."""

    name = "ORT MatMulInteger s32"
    output = "s32"
    adds_bias = False

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        from onnx import helper

        node = helper.make_node("MatMulInteger", ["x", "w", "x_zero"], ["y"])
        constants = {"w": problem.w_transposed, "x_zero": np.uint8(problem.x_zero_point)}
        return [self._variant(problem, threads, node, constants, problem.x, np.int32)]


class DynamicQuantizeMatMul(_Session):
    name = "ORT DynamicQuantizeMatMul"
    output = "dynamic"

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        from onnx import helper

        node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "w_scale", "w_zero", "bias"], ["y"], domain="com.microsoft")
        encodings = self._encodings(problem)
        constants = {"w": problem.w_transposed, "bias": problem.bias, **{key: encodings[key] for key in ("w_scale", "w_zero")}}
        return [self._variant(problem, threads, node, constants, problem.x_float, np.float32)]


CONTENDERS: list[Contender] = [QGemm(), QLinearMatMul(), MatMulInteger(), DynamicQuantizeMatMul()]
