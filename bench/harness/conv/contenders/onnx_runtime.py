"""ONNX Runtime: the node its NHWC transformer makes of a quantized convolution, weights as initializers, operands bound once."""

from __future__ import annotations

import numpy as np

from ...contenders.base import Contender, Variant
from ...problem import aligned
from ..problem import Problem


class _Session(Contender):
    library = "onnxruntime"
    output = "u8"
    modules = ("onnx", "onnxruntime")

    def _variant(self, threads: int, nodes, constants: dict[str, np.ndarray], x: np.ndarray, y_shape, result, name: str = "") -> Variant:
        import onnxruntime as ort
        from onnx import TensorProto, helper, numpy_helper

        graph = helper.make_graph(
            nodes,
            "conv",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
            [helper.make_tensor_value_info("y", TensorProto.UINT8, y_shape)],
            [numpy_helper.from_array(np.asarray(a), key) for key, a in constants.items()],
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        x_value, y_value = ort.OrtValue.ortvalue_from_numpy(x), ort.OrtValue.ortvalue_from_numpy(aligned(np.empty(y_shape, np.uint8)))
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", x_value)
        binding.bind_ortvalue_output("y", y_value)
        run = session.run_with_iobinding
        return Variant(lambda: run(binding), lambda: result(y_value.numpy()), name)


def _encodings(p: Problem) -> dict[str, np.ndarray]:
    return {
        "x_scale": np.float32(p.x_scale),
        "x_zero": np.uint8(p.x_zero_point),
        "y_scale": np.float32(p.out_scale),
        "y_zero": np.uint8(p.out_zero_point),
        "bias": p.bias_int32,
    }


class QLinearConv(_Session):
    """com.microsoft.QLinearConv, channels_last. The 1-D ones also as 2-D ones of one row."""

    name = "ORT QLinearConv NHWC u8"

    def takes(self, shape) -> bool:
        return not shape.transposed

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        from onnx import helper

        p = problem
        inputs = ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero", "bias"]
        variants = []
        for first in (0, 1) if len(p.shape.size) == 1 else (0,):
            window = {"kernel_shape": p.kernel[first:], "strides": p.stride[first:], "dilations": p.dilation[first:], "group": p.groups}
            window |= {"pads": p.padding[first:] * 2, "channels_last": 1}
            node = helper.make_node("QLinearConv", inputs, ["y"], domain="com.microsoft", **window)
            drop = (lambda a: a[:, 0]) if first else (lambda a: a)
            w = p.w[:, :, 0] if first else p.w
            constants = {**_encodings(p), "w": w, "w_scale": p.w_scale, "w_zero": np.zeros(p.n, np.int8)}
            y_shape = (p.shape.batch, *p.out_size[first:], p.n)
            name = "" if len(p.shape.size) == 2 else ("1-D" if first else "2-D")
            variants.append(self._variant(threads, [node], constants, drop(p.x), y_shape, lambda y: y.reshape(p.out_shape), name))
        return variants


class ConvTranspose(_Session):
    """ConvTranspose between quantize and dequantize nodes: it has no integer kernel. NCHW, its only layout."""

    name = "ORT QDQ u8"

    def takes(self, shape) -> bool:
        return shape.transposed

    def prepare(self, problem: Problem, threads: int) -> list[Variant]:
        from onnx import helper

        p = problem
        window = {"kernel_shape": p.kernel, "strides": p.stride, "dilations": p.dilation, "group": p.groups, "pads": p.padding * 2}
        nodes = [
            helper.make_node("DequantizeLinear", ["x", "x_scale", "x_zero"], ["xf"]),
            helper.make_node("DequantizeLinear", ["w", "w_scale"], ["wf"]),
            helper.make_node("ConvTranspose", ["xf", "wf", "b"], ["yf"], output_padding=p.output_padding, **window),
            helper.make_node("QuantizeLinear", ["yf", "y_scale", "y_zero"], ["y"]),
        ]
        # The weight as integers: a float one between such nodes is quantized by an optimizer, on a grid of its own.
        constants = {**_encodings(p), "w": p.w_transposed, "w_scale": p.w_scale[0], "b": p.bias}
        del constants["bias"]
        x = np.ascontiguousarray(p.x.transpose(0, 3, 1, 2))
        y_shape = (p.shape.batch, p.n, *p.out_size)
        return [self._variant(threads, nodes, constants, x, y_shape, lambda y: y.transpose(0, 2, 3, 1))]


CONTENDERS: list[Contender] = [QLinearConv(), ConvTranspose()]
