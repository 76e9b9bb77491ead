"""ONNX file -> Graph, faithfully: every node stays, Constant nodes become constants, names are the file's.

Q/DQ nodes are still there afterwards; ``passes.run_all`` turns them into encodings on tensors.
Opsets 13 to 23. Half-precision constants are widened to float32, int4/uint4 constants to int8/uint8 (``Tensor.dtype`` keeps
the file's type, so a 4-bit grid is still known as one).
"""

from __future__ import annotations

import ast
import os
import re
from typing import Any

import numpy as np

from ..errors import DTypeError, ModelFormatError, QgemmError, UnsupportedOpError, require
from .guard import DAMAGE
from .ir import Graph, Node, Tensor

OPSETS = range(13, 24)

# Shape inference keeps a second copy of the model; above this it is not worth the memory.
_INFER_BYTES = 1 << 30

_WIDENED = {"int4": np.int8, "uint4": np.uint8, "int2": np.int8, "uint2": np.uint8, "float16": np.float32, "bfloat16": np.float32}

# Operators of other domains that mean exactly the standard one.
_SAME_AS_STANDARD = {
    ("com.microsoft", "QuantizeLinear"): "QuantizeLinear",
    ("com.microsoft", "DequantizeLinear"): "DequantizeLinear",
    ("com.microsoft", "Gelu"): "Gelu",
}


def import_onnx(model) -> Graph:
    """Read an ONNX model: a path, the bytes of a file, or an ``onnx.ModelProto``.

    Raises DTypeError for anything else, and ModelFormatError when it is not ONNX, is cut, fails the ONNX checker, misses its external
    data or has a cycle.
    """
    onnx = require("onnx", "reading an ONNX file")
    proto, label = _load(onnx, model)
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        raise ModelFormatError(
            f"{label} has opset {opset or 'unknown'}; qgemm reads opsets {OPSETS.start} to {OPSETS.stop - 1}: "
            f"export again with opset_version=21, or convert with onnx.version_converter"
        )
    _check_acyclic(proto.graph, label)
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as e:
        raise ModelFormatError(f"{label} is not a valid ONNX model: {_first_line(e)}") from None
    if proto.functions:
        from onnx import inliner

        proto = inliner.inline_local_functions(proto)
    try:
        return _build(onnx, proto, opset, label)
    except DAMAGE as e:
        if isinstance(e, QgemmError):
            raise
        raise ModelFormatError(f"{label} is damaged: {_first_line(e)}; export or copy it again") from None


def _load(onnx, model):
    if isinstance(model, onnx.ModelProto):
        _reject_external(onnx, model, "the model")
        return model, "the model"
    if isinstance(model, (bytes, bytearray, memoryview)):
        proto, label = _parse(onnx, bytes(model), "the model"), "the model"
        _reject_external(onnx, proto, label)
        return proto, label
    if not isinstance(model, (str, os.PathLike)):
        raise DTypeError(f"a model must be a path, the bytes of a file or an onnx.ModelProto, got {type(model).__name__}")
    path = os.fspath(model)
    label = f"'{os.path.basename(path)}'"
    try:
        with open(path, "rb") as f:
            data = f.read()
    except FileNotFoundError:
        raise ModelFormatError(f"there is no file '{path}'") from None
    except OSError as e:
        raise ModelFormatError(f"{label} cannot be read: {e.strerror or e}") from None
    proto = _parse(onnx, data, label)
    del data
    try:
        onnx.load_external_data_for_model(proto, os.path.dirname(os.path.abspath(path)))
    except Exception as e:  # onnx reports a missing or unsafe data file with several unrelated exception types
        raise ModelFormatError(
            f"{label} keeps weights in an external data file that cannot be read ({_first_line(e)}); put it beside the .onnx file"
        ) from None
    return proto, label


def _parse(onnx, data: bytes, label: str):
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as e:  # protobuf's DecodeError has a different class per backend
        raise ModelFormatError(f"{label} is not an ONNX file, or is cut ({_first_line(e)}); export or copy it again") from None
    if not proto.ir_version or not proto.HasField("graph"):
        raise ModelFormatError(f"{label} is not an ONNX file: it has no graph; export or copy it again")
    return proto


def _reject_external(onnx, proto, label):
    for t in proto.graph.initializer:
        if t.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelFormatError(f"{label} keeps '{t.name}' in an external data file: pass the path of the .onnx file instead")


def _first_line(e: BaseException) -> str:
    text = str(e).strip()
    return text.splitlines()[0][:300] if text else type(e).__name__


def _check_acyclic(graph, label):
    """Kahn's algorithm; the ONNX checker says only that nodes are out of order, not that they cannot be ordered."""
    made_by = {o: i for i, n in enumerate(graph.node) for o in n.output if o}
    waits = [{made_by[i] for i in n.input if i in made_by} for n in graph.node]
    followers: dict[int, list[int]] = {}
    for i, w in enumerate(waits):
        for j in w:
            followers.setdefault(j, []).append(i)
    ready = [i for i, w in enumerate(waits) if not w]
    left = [len(w) for w in waits]
    done = 0
    while ready:
        i = ready.pop()
        done += 1
        for j in followers.get(i, ()):
            left[j] -= 1
            if not left[j]:
                ready.append(j)
    if done != len(waits):
        stuck = [n.name or n.op_type for n, k in zip(graph.node, left, strict=True) if k]
        raise ModelFormatError(f"{label} has a cycle through {', '.join(map(repr, stuck[:4]))}: a network must be a graph without cycles")


def _build(onnx, proto, opset: int, label: str) -> Graph:
    g = Graph(name=proto.graph.name, opset=opset)
    for t in proto.graph.initializer:
        dtype, data = _array(onnx, t, f"initializer '{t.name}' of {label}")
        g.tensors[t.name] = Tensor(t.name, tuple(data.shape), dtype, data=data)
    if proto.graph.sparse_initializer:
        raise ModelFormatError(f"{label} has sparse initializers, which qgemm does not read: store them dense")
    for v in proto.graph.input:
        if v.name not in g.tensors:  # old exporters list initializers among the inputs
            g.inputs.append(v.name)
            g.tensors[v.name] = _value(onnx, v)
    for v in _inferred(onnx, proto):
        if v.name not in g.tensors:
            g.tensors[v.name] = _value(onnx, v)
    for v in proto.graph.output:
        g.outputs.append(v.name)
        if v.name not in g.tensors:
            g.tensors[v.name] = _value(onnx, v)
    made_by = {o: n for n in proto.graph.node for o in n.output if o}
    for n in proto.graph.node:
        attrs = {a.name: _attribute(onnx, a, n, label) for a in n.attribute}
        if n.op_type == "Constant" and n.domain in ("", "ai.onnx"):
            data = _constant(attrs, n, label)
            g.tensors[n.output[0]] = Tensor(n.output[0], tuple(data.shape), data.dtype.name, data=data)
            continue
        op = n.op_type
        if n.domain not in ("", "ai.onnx"):
            op = _SAME_AS_STANDARD.get((n.domain, n.op_type), f"{n.domain}::{n.op_type}")
        for o in n.output:
            if o:
                g.tensor(o)
        name = n.name or next((o for o in n.output if o), n.op_type)
        g.nodes.append(Node(op, list(n.input), list(n.output), attrs, name, _module(n, made_by, g)))
    return g


def _inferred(onnx, proto):
    """Value infos with what shape inference adds; a model it cannot handle simply has fewer known shapes."""
    if proto.ByteSize() > _INFER_BYTES:
        return list(proto.graph.value_info)
    try:
        return list(onnx.shape_inference.infer_shapes(proto, data_prop=True).graph.value_info)
    except Exception:
        return list(proto.graph.value_info)


def _dtype_name(onnx, elem_type: int) -> str:
    name = onnx.TensorProto.DataType.Name(elem_type).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _value(onnx, v) -> Tensor:
    t = v.type.tensor_type
    shape = None
    if v.type.HasField("tensor_type") and t.HasField("shape"):
        shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in t.shape.dim)
    return Tensor(v.name, shape, _dtype_name(onnx, t.elem_type))


def _array(onnx, t, what: str) -> tuple[str, np.ndarray]:
    """(type in the file, array), the array in a type that numpy has."""
    dtype = _dtype_name(onnx, t.data_type)
    if dtype.startswith("float8") or dtype.startswith("float4"):
        raise UnsupportedOpError(f"{what} is {dtype}; qgemm executes integer grids: export with int8 or int4 weights")
    try:
        a = onnx.numpy_helper.to_array(t)
    except Exception as e:
        raise ModelFormatError(f"{what} cannot be read: {_first_line(e)}") from None
    if dtype in _WIDENED:
        a = a.astype(_WIDENED[dtype])
    elif a.dtype.kind in "iuf" and not a.dtype.isnative:
        a = a.astype(a.dtype.newbyteorder("="))
    return ("float32" if dtype in ("float16", "bfloat16") else dtype), np.asarray(a)


def _attribute(onnx, a, node, label) -> Any:
    kind = onnx.AttributeProto
    if a.type == kind.TENSOR:
        return _array(onnx, a.t, f"attribute '{a.name}' of node '{node.name}' of {label}")[1]
    if a.type in (kind.GRAPH, kind.GRAPHS):
        return None  # control flow: lowering refuses the operator by name
    value = onnx.helper.get_attribute_value(a)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if a.type == kind.STRINGS:
        return [v.decode("utf-8", "replace") for v in value]
    return list(value) if a.type in (kind.INTS, kind.FLOATS) else value


def _constant(attrs, node, label) -> np.ndarray:
    for key, make in (
        ("value", np.asarray),
        ("value_float", lambda v: np.asarray(v, np.float32)),
        ("value_floats", lambda v: np.asarray(v, np.float32)),
        ("value_int", lambda v: np.asarray(v, np.int64)),
        ("value_ints", lambda v: np.asarray(v, np.int64)),
    ):
        if key in attrs:
            return make(attrs[key])
    raise ModelFormatError(f"Constant node '{node.name}' of {label} has no tensor value; strings and sparse tensors are not read")


# ---- the torch module behind a node -----------------------------------------------------------------------------------

_PARAMETER = re.compile(r"^(?P<module>.+)\.(?:weight|bias|in_proj_weight)(?:_[0-9a-z_]*)?$")


def _module(node, made_by, graph: Graph) -> str:
    """Dotted torch module path: by the weight's name, else by exporter metadata, else by the scope in the node's name."""
    for name in _weight_names(node, made_by, graph):
        m = _PARAMETER.match(name)
        if m and "_dup_" not in name:  # a deduplicated constant carries the name of another module
            return m["module"]
    for p in node.metadata_props:
        if p.key == "pkg.torch.onnx.name_scopes":
            try:
                scopes = [s for s in ast.literal_eval(p.value)[:-1] if s]
            except (ValueError, SyntaxError):
                break
            return str(scopes[-1]) if scopes else ""
    return scope_path(node.name)


def _weight_names(node, made_by, graph):
    """Names of the constant behind input 1, nearest first, through the nodes that only rearrange or dequantize it."""
    if len(node.input) < 2 or node.op_type in ("QuantizeLinear", "DequantizeLinear", "Add", "Sub", "Mul", "Div", "Pow", "Clip", "Reshape"):
        return []
    for start in (node.input[1], *([node.input[0]] if node.op_type == "MatMul" else [])):
        names, name = [], start
        while name:
            names.append(name)
            if name in graph.tensors and graph.tensors[name].is_const:
                return names
            maker = made_by.get(name)
            if maker is None or maker.op_type not in ("DequantizeLinear", "QuantizeLinear", "Identity", "Transpose", "Cast", "Reshape"):
                break
            name = maker.input[0]
    return []


def scope_path(name: str) -> str:
    """'/layer1/layer1.0/conv1/Conv' -> 'layer1.0.conv1': torch repeats a container's name in front of its child's."""
    if not name.startswith("/"):
        return ""
    parts: list[str] = []
    for scope in name.split("/")[1:-1]:
        if parts and scope.startswith(parts[-1] + "."):
            parts[-1] = scope
        else:
            parts.append(scope)
    return ".".join(parts)
