"""Small ONNX models for the tests of the graph, and the reference that runs them: onnxruntime without any optimization."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper, shape_inference

TYPES = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "bool": TensorProto.BOOL,
}


def node(op, inputs, outputs, **attrs):
    return helper.make_node(op, list(inputs), [outputs] if isinstance(outputs, str) else list(outputs), name=attrs.pop("name", ""), **attrs)


def model(nodes, inputs: dict, outputs, constants: dict | None = None, opset: int = 21):
    """inputs: name -> (dtype, shape) with None or a string for a free dimension. outputs: names (type left to inference) or a dict."""
    named = outputs if isinstance(outputs, dict) else dict.fromkeys(outputs, ("float32", None))
    g = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(k, TYPES[d], s) for k, (d, s) in inputs.items()],
        [helper.make_tensor_value_info(k, TYPES[d], s) for k, (d, s) in named.items()],
        [t if isinstance(t, TensorProto) else numpy_helper.from_array(np.asarray(t), k) for k, t in (constants or {}).items()],
    )
    m = helper.make_model(g, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return shape_inference.infer_shapes(m)  # the checker wants a shape on every output


class Builder:
    """Grows a QDQ model node by node, the way AIMET's exporter writes it."""

    def __init__(self, opset: int = 21):
        self.nodes, self.constants, self.inputs, self.outputs, self.opset = [], {}, {}, [], opset

    def input(self, name, shape, dtype="float32"):
        self.inputs[name] = (dtype, shape)
        return name

    def const(self, name, value):
        self.constants[name] = value
        return name

    def add(self, op, inputs, output, **attrs):
        self.nodes.append(node(op, inputs, output, **attrs))
        return output

    def q(self, x, scale, zero, dtype=np.uint8, out=None, axis=None):
        """QuantizeLinear and DequantizeLinear behind x; returns the name of the rounded value."""
        out, attrs = out or f"{x}_qdq", {} if axis is None else {"axis": axis}
        self.const(f"{out}_scale", np.float32(scale))
        self.const(f"{out}_zero", np.asarray(zero, dtype))
        self.add("QuantizeLinear", [x, f"{out}_scale", f"{out}_zero"], f"{out}_int", **attrs)
        return self.add("DequantizeLinear", [f"{out}_int", f"{out}_scale", f"{out}_zero"], out, **attrs)

    def weight(self, name, ints, scale, zero=None, axis=0, onnx_type=None, block_size=0):
        """A prequantized weight: DequantizeLinear of an integer constant."""
        attrs = {"axis": axis} if np.ndim(scale) else {}
        if block_size:
            attrs["block_size"] = block_size
        dims = list(np.shape(ints))

        def store(key, value):
            value = np.asarray(value)
            self.const(key, helper.make_tensor(key, onnx_type, list(value.shape), value.ravel().tolist()) if onnx_type else value)

        store(f"{name}_q", np.asarray(ints).reshape(dims))
        self.const(f"{name}_scale", np.asarray(scale, np.float32))
        inputs = [f"{name}_q", f"{name}_scale"]
        if zero is not None:
            store(f"{name}_zero", np.asarray(zero, np.asarray(ints).dtype))
            inputs.append(f"{name}_zero")
        return self.add("DequantizeLinear", inputs, f"{name}_dq", **attrs)

    def model(self, *outputs):
        return model(self.nodes, self.inputs, outputs, self.constants, self.opset)


def reference(proto, feeds: dict, outputs=None) -> list[np.ndarray]:
    """onnxruntime, unoptimized: every QuantizeLinear/DequantizeLinear is computed as written, in float32."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(outputs, feeds)
