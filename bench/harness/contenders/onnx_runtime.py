"""ONNX Runtime: its quantized operators one by one, weights as initializers (which it packs at load), operands bound once.

The threads of the pool spin between calls, its default.
"""

from __future__ import annotations

import numpy as np

from ..problem import Problem, aligned
from .base import Contender, Variant


def bound(threads: int, nodes, constants: dict[str, np.ndarray], inputs: dict[str, np.ndarray], outputs: dict[str, tuple], name: str = ""):
    """A variant that runs a graph of ``nodes``. outputs: name -> (shape, numpy type); the result is the outputs side by side."""
    import onnxruntime as ort
    from onnx import helper, numpy_helper

    def info(key: str, shape, dtype):
        return helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    graph = helper.make_graph(
        nodes,
        "products",
        [info(key, a.shape, a.dtype) for key, a in inputs.items()],
        [info(key, *like) for key, like in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), key) for key, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for key, a in inputs.items():
        binding.bind_ortvalue_input(key, ort.OrtValue.ortvalue_from_numpy(a))
    results = [ort.OrtValue.ortvalue_from_numpy(aligned(np.empty(*like))) for like in outputs.values()]
    for key, value in zip(outputs, results, strict=True):
        binding.bind_ortvalue_output(key, value)
    run = session.run_with_iobinding
    return Variant(lambda: run(binding), lambda: np.concatenate([value.numpy() for value in results], -1), name)


class _Session(Contender):
    library = "onnxruntime"
    modules = ("onnx", "onnxruntime")

    def _variant(self, problem: Problem, threads: int, node, constants: dict[str, np.ndarray], x: np.ndarray, y_type, name: str = ""):
        return bound(threads, [node], constants, {"x": x}, {"y": ((problem.m, problem.n), y_type)}, name)

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
