"""Graph <-> a JSON document and named arrays: what a ``.qgemm`` file holds. docs/files.md describes the document.

The reading side trusts nothing: every type, name, shape and grid is checked, and each array of the file is read at most once, so a
document cannot make the reader allocate more than a multiple of the file's own size and what the limits below allow.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _core
from ..errors import ModelFormatError, QgemmError, QuantizationError
from .guard import check_grids
from .ir import Graph, Node, QParams, Tensor

# numpy's name of an element type -> safetensors' name
STORED = {
    "bool": "BOOL", "int8": "I8", "uint8": "U8", "int16": "I16", "uint16": "U16", "int32": "I32", "uint32": "U32", "int64": "I64",
    "uint64": "U64", "float16": "F16", "float32": "F32", "float64": "F64",
}  # fmt: skip
NIBBLES = {"int4": np.int8, "uint4": np.uint8}  # two values a byte in the file, one a byte in memory

# Element types a tensor may declare; ONNX has more of them than numpy, and run-time values of those are never held as such.
_DECLARED = {
    *STORED, "bfloat16", "int4", "uint4", "int2", "uint2", "string", "undefined", "complex64", "complex128", "float8e4m3fn",
    "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "float8e8m0", "float4e2m1",
}  # fmt: skip

_RANK = 32  # of numpy 1
_DEPTH = 16  # lists inside lists of an attribute; ONNX has one level
_EMPTY = 1 << 20  # product of the other dimensions of an array without elements: its size in the file bounds nothing
# Every node packs or dequantizes the constants it reads: bytes that all of them together may read, in all constants' bytes and beyond.
_READS, _READ_BYTES = 64, 1 << 30
_BITS = re.compile("[0-9a-f]{16}")


class _Refused(Exception):
    """A rule of the document that broke; :func:`decode` adds the file's name."""


# ---- Graph -> document --------------------------------------------------------------------------------------------------


def encode(graph: Graph) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(document, arrays by key). Raises ModelFormatError or QuantizationError naming what cannot be kept: an attribute of a type
    that JSON and arrays do not have, strings as constants, integers off their grid, nodes out of order."""
    arrays: dict[str, np.ndarray] = {}
    try:
        document = {
            "name": _text(graph.name, "the graph's name"),
            "opset": _int(graph.opset, "the opset"),
            "inputs": [_text(i, "an input's name") for i in graph.inputs],
            "outputs": [_text(o, "an output's name") for o in graph.outputs],
            "tensors": [_from_tensor(key, t, arrays) for key, t in graph.tensors.items()],
            "nodes": [_from_node(n, arrays) for n in graph.nodes],
        }
        _check_order(graph)
        _check_reads(graph)
    except _Refused as e:
        raise ModelFormatError(f"this program cannot be kept in a file: {e}") from None
    _check_constants(graph)
    return document, arrays


def _from_tensor(key: str, t: Tensor, arrays: dict) -> dict[str, Any]:
    if t.name != key:
        raise _Refused(f"tensor '{t.name}' goes by the name '{key}'")
    what = f"tensor '{key}'"
    entry: dict[str, Any] = {"name": _text(key, "a tensor's name"), "shape": None, "dtype": _declared(t.dtype, what)}
    if t.shape is not None:
        entry["shape"] = [None if d is None else _int(int(d), f"the shape of {what}", 0) for d in t.shape]
    qp = t.qparams
    if qp is not None:
        grid: dict[str, Any] = {"bits": int(qp.bits), "signed": bool(qp.signed), "axis": None if qp.axis is None else int(qp.axis)}
        grid["block_size"] = int(qp.block_size)
        grid["scale"] = _keep(arrays, f"scale/{key}", qp.scale, what)
        if qp.zero_point.any():
            grid["zero_point"] = _keep(arrays, f"zero_point/{key}", qp.zero_point, what)
        entry["grid"] = grid
    if t.data is not None:
        entry["data"] = _keep(arrays, f"data/{key}", t.data, what, _nibble_type(t))
    return entry


def _nibble_type(t: Tensor) -> str | None:
    """The type "int4" or "uint4" for integers of at most 4 bits; outliers are the business of _check_constants."""
    a, qp = t.data, t.qparams
    if qp is None or qp.bits > 4 or a.ndim == 0 or a.dtype.name not in ("int8", "uint8"):
        return None
    low, high = (-8, 7) if a.dtype == np.int8 else (0, 15)
    return f"{a.dtype.kind.replace('i', 'int').replace('u', 'uint')}4" if not a.size or (a.min() >= low and a.max() <= high) else None


def _keep(arrays: dict, key: str, a: np.ndarray, what: str, nibbles: str | None = None) -> dict[str, Any]:
    if a.dtype.name not in STORED:
        raise _Refused(f"{what} holds elements of type {a.dtype}; a file holds {', '.join(STORED)}")
    _size(a.shape, what)
    entry = {"dtype": nibbles or a.dtype.name, "shape": list(a.shape)}
    a = np.asarray(a, a.dtype.newbyteorder("="), order="C")
    arrays[key] = _core.pack_int4(a) if nibbles else a
    return entry


def _from_node(n: Node, arrays: dict) -> dict[str, Any]:
    what = f"node '{n.name}' ({n.op})"
    attrs = {}
    for k, v in n.attrs.items():
        attrs[_text(k, f"an attribute's name of {what}")] = _from_value(v, arrays, f"attribute '{k}' of {what}")
    return {
        "op": _text(n.op, f"the operator of {what}"),
        "name": _text(n.name, f"the name of {what}"),
        "module": _text(n.module, f"the module of {what}"),
        "inputs": [_text(i, f"an input of {what}") for i in n.inputs],
        "outputs": [_text(o, f"an output of {what}") for o in n.outputs],
        "attrs": attrs,
    }


def _from_value(v: Any, arrays: dict, what: str, depth: int = 0) -> Any:
    """JSON for the types it keeps exactly, an object with one meaning for every other."""
    _check_depth(depth, what)
    if v is None or type(v) is bool:
        return v
    if type(v) is str:
        return _text(v, what)
    if type(v) is int:
        return _int(v, what, -(1 << 63), 1 << 64)
    if type(v) is float:
        return v if math.isfinite(v) else {"float": struct.pack(">d", v).hex()}
    if type(v) is list:
        return [_from_value(x, arrays, what, depth + 1) for x in v]
    if type(v) is tuple:
        return {"tuple": [_from_value(x, arrays, what, depth + 1) for x in v]}
    if type(v) is np.ndarray or isinstance(v, np.generic):
        key = f"attr/{len(arrays)}"
        kind = "array" if type(v) is np.ndarray else "scalar"
        return {kind: key, **_keep(arrays, key, np.asarray(v), what)}
    raise _Refused(f"{what} is a {type(v).__name__}; a file holds numbers, strings, lists, tuples, None and numpy arrays of numbers")


# ---- document -> Graph --------------------------------------------------------------------------------------------------

Fetch = Callable[[str, str, tuple[int, ...]], np.ndarray]


class Arrays:
    """The arrays of a file, each readable once. entries: key -> (safetensors type, shape); get(key) reads one."""

    def __init__(self, entries: dict[str, tuple[str, tuple[int, ...]]], get: Callable[[str], np.ndarray]):
        self.left, self.get = dict(entries), get

    def take(self, key: str, record: Any, what: str, dtypes: tuple[str, ...] | None = None) -> np.ndarray:
        """The array that ``record`` ({"dtype", "shape"}) describes, after comparing it with what the file has under ``key``."""
        dtype, shape = _str(_field(record, "dtype", what), what), _shape(_field(record, "shape", what), what)
        if dtypes is not None and dtype not in dtypes or dtype not in STORED and dtype not in NIBBLES:
            raise _Refused(f"{what} has the element type '{dtype[:40]}' where {' or '.join(dtypes or (*STORED, *NIBBLES))} belongs")
        if None in shape or (dtype in NIBBLES and not shape):
            raise _Refused(f"{what} has the shape {list(shape)}")
        _size(shape, what)
        stored, held = (STORED[dtype], shape) if dtype in STORED else ("U8", (*shape[:-1], -(-shape[-1] // 2)))
        if key not in self.left:
            raise _Refused(f"{what} needs the tensor '{key}', which is missing or belongs to something else too")
        if self.left[key] != (stored, held):
            has, size = self.left[key]
            raise _Refused(f"{what} needs the tensor '{key}' as {stored} {list(held)}, the file has {has} {list(size)}")
        del self.left[key]
        a = self.get(key)
        if dtype in NIBBLES:
            return _core.unpack_int4(a, shape[-1], dtype == "int4")
        if dtype == "bool" and a.size and a.view(np.uint8).max() > 1:
            raise _Refused(f"{what} has booleans that are neither 0 nor 1")
        return a


def decode(document: Any, arrays: Arrays, label: str) -> Graph:
    """The graph of a document from anywhere. Raises ModelFormatError or QuantizationError naming ``label``, the tensor or node, and
    the rule that broke."""
    try:
        return _graph(document, arrays)
    except _Refused as e:
        raise ModelFormatError(f"{label} is damaged: {e}; copy it again, or save the program again") from None
    except QgemmError as e:
        raise type(e)(f"{label} is damaged: {e}") from None


def _graph(document: Any, arrays: Arrays) -> Graph:
    g = Graph(name=_str(_field(document, "name", "the graph"), "the graph's name"))
    g.opset = _int(_field(document, "opset", "the graph"), "the opset", 0, 1 << 31)
    for entry in _list(_field(document, "tensors", "the graph"), "the list of tensors"):
        t = _to_tensor(entry, arrays)
        if t.name in g.tensors:
            raise _Refused(f"tensor '{t.name}' is there twice")
        g.tensors[t.name] = t
    g.inputs = _strings(_field(document, "inputs", "the graph"), "the list of inputs")
    g.outputs = _strings(_field(document, "outputs", "the graph"), "the list of outputs")
    g.nodes = [_to_node(entry, arrays) for entry in _list(_field(document, "nodes", "the graph"), "the list of nodes")]
    if arrays.left:
        raise _Refused(f"nothing in its graph uses the tensor '{next(iter(arrays.left))[:200]}'")
    _check_order(g)
    _check_reads(g)
    _check_constants(g)
    return g


def _to_tensor(entry: Any, arrays: Arrays) -> Tensor:
    name = _str(_field(entry, "name", "a tensor"), "a tensor's name")
    what = f"tensor '{name}'"
    shape = _field(entry, "shape", what)
    t = Tensor(name, None if shape is None else _shape(shape, what), _declared(_field(entry, "dtype", what), what))
    if "grid" in entry:
        t.qparams = _to_grid(entry["grid"], name, arrays)
    if "data" in entry:
        t.data = arrays.take(f"data/{name}", entry["data"], f"the data of {what}")
    return t


def _to_grid(grid: Any, name: str, arrays: Arrays) -> QParams:
    what = f"the encoding of '{name}'"
    bits = _int(_field(grid, "bits", what), f"the bits of {what}", 1, 33)
    signed, axis = _field(grid, "signed", what), _field(grid, "axis", what)
    if type(signed) is not bool:
        raise _Refused(f"{what} does not say true or false for signed")
    if axis is not None:
        axis = _int(axis, f"the axis of {what}", -_RANK, _RANK)
    block = _int(_field(grid, "block_size", what), f"the block size of {what}", 0, 1 << 31)
    scale = arrays.take(f"scale/{name}", _field(grid, "scale", what), f"the scale of {what}", ("float32",))
    zero = np.zeros((), np.int32)
    if "zero_point" in grid:
        zero = arrays.take(f"zero_point/{name}", grid["zero_point"], f"the zero point of {what}", ("int32",))
        if zero.shape != scale.shape:
            raise _Refused(f"{what} has zero points of shape {zero.shape} for scales of shape {scale.shape}")
    if axis is not None and (scale.ndim == 0 or (scale.ndim > 1 and not block)):
        raise _Refused(f"{what} is along an axis, with scales of shape {scale.shape}")
    if axis is None and block:
        raise _Refused(f"{what} has blocks along no axis")
    try:
        return QParams(scale, zero, bits, signed, axis, block)
    except QuantizationError as e:
        raise QuantizationError(f"{what}: {e}") from None


def _to_node(entry: Any, arrays: Arrays) -> Node:
    op = _str(_field(entry, "op", "a node"), "a node's operator")
    name = _str(_field(entry, "name", f"a {op}"), f"the name of a {op}")
    what = f"node '{name}' ({op})"
    n = Node(op, _strings(_field(entry, "inputs", what), f"the inputs of {what}"),
             _strings(_field(entry, "outputs", what), f"the outputs of {what}"), {}, name,
             _str(_field(entry, "module", what), f"the module of {what}"))  # fmt: skip
    for k, v in _object(_field(entry, "attrs", what), f"the attributes of {what}").items():
        n.attrs[k] = _to_value(v, arrays, f"attribute '{k}' of {what}")
    if op == "Lut":
        table = n.attrs.get("table")
        if not isinstance(table, np.ndarray) or table.dtype != np.uint8 or table.shape != (256,):
            raise _Refused(f"{what} has no table of 256 bytes")
    return n


def _to_value(v: Any, arrays: Arrays, what: str, depth: int = 0) -> Any:
    _check_depth(depth, what)
    if v is None or type(v) in (bool, str, int):
        return v
    if type(v) is float:
        if not math.isfinite(v):  # 1e999: JSON has no infinity, a number beyond float64's range becomes one
            raise _Refused(f"{what} is a number beyond float64")
        return v
    if type(v) is list:
        return [_to_value(x, arrays, what, depth + 1) for x in v]
    for kind in ("array", "scalar"):
        if kind in v:
            a = arrays.take(_str(v[kind], what), v, what, tuple(STORED))
            if kind == "scalar" and a.ndim:
                raise _Refused(f"{what} is a scalar of shape {a.shape}")
            return a if kind == "array" else a[()]
    if set(v) == {"tuple"}:
        return tuple(_to_value(x, arrays, what, depth + 1) for x in _list(v["tuple"], what))
    if set(v) == {"float"} and _BITS.fullmatch(_str(v["float"], what)):
        return struct.unpack(">d", bytes.fromhex(v["float"]))[0]
    raise _Refused(f"{what} is an object of no known kind ({', '.join(v)[:80]})")


# ---- rules of both directions -------------------------------------------------------------------------------------------


def _check_order(g: Graph) -> None:
    """Every tensor is a constant, an input or the output of exactly one node, and comes before the nodes that read it."""
    ready = {k for k, t in g.tensors.items() if t.is_const}
    for i in g.inputs:
        if i not in g.tensors or i in ready:
            raise _Refused(f"input '{i}' is no tensor of its own")
        if g.tensors[i].dtype not in STORED and g.tensors[i].dtype != "bfloat16":
            raise _Refused(f"input '{i}' is {g.tensors[i].dtype}, which no array can be")
        ready.add(i)
    for n in g.nodes:
        for i in n.inputs:
            if i and i not in ready:
                why = "comes later or is part of a cycle" if i in g.tensors else "is not there"
                raise _Refused(f"node '{n.name}' ({n.op}) reads '{i}', which {why}")
        for o in n.outputs:
            if o and (o not in g.tensors or o in ready):
                raise _Refused(f"node '{n.name}' ({n.op}) writes '{o}', which {'another one gives' if o in ready else 'is not there'}")
            if o:
                ready.add(o)
    for o in g.outputs:
        if o not in ready:
            raise _Refused(f"nothing computes the output '{o}'")


def _check_reads(g: Graph) -> None:
    size = {t.name: t.data.nbytes for t in g.constants()}
    read = sum(size.get(i, 0) for n in g.nodes for i in n.inputs)
    if read > _READS * sum(size.values()) + _READ_BYTES:
        raise _Refused(f"its {len(g.nodes)} nodes read {sum(size.values()):,} bytes of constants so often that they are {read:,}")


def _check_constants(g: Graph) -> None:
    """The encoding of every constant fits its shape, and its integers lie on the grid: kernels and their overflow proof rely on it."""
    check_grids(g)
    for t in g.constants():
        qp, a = t.qparams, t.data
        if qp is None:
            continue
        if a.dtype.kind not in "iu":
            raise QuantizationError(f"constant '{t.name}' has an encoding and elements of type {a.dtype}; it holds integers of its grid")
        if a.size and (a.min() < qp.qmin or a.max() > qp.qmax):
            raise QuantizationError(
                f"constant '{t.name}' holds {a.min()}..{a.max()}, outside [{qp.qmin}, {qp.qmax}] of its {qp.dtype} grid"
            )


def _check_depth(depth: int, what: str) -> None:
    if depth > _DEPTH:
        raise _Refused(f"{what} has more than {_DEPTH} lists inside each other")


def _size(shape: tuple[int, ...], what: str) -> None:
    if len(shape) > _RANK or (0 in shape and math.prod(d for d in shape if d) > _EMPTY):
        raise _Refused(f"{what} has the shape {list(shape)[: _RANK + 1]}, beyond what a file may declare")


def _field(entry: Any, key: str, what: str) -> Any:
    if key not in _object(entry, what):
        raise _Refused(f"{what} has no '{key}'")
    return entry[key]


def _object(v: Any, what: str) -> dict:
    if type(v) is not dict:
        raise _Refused(f"{what} is not a JSON object")
    return v


def _list(v: Any, what: str) -> list:
    if type(v) is not list:
        raise _Refused(f"{what} is not a list")
    return v


def _strings(v: Any, what: str) -> list[str]:
    return [_str(x, what) for x in _list(v, what)]


def _str(v: Any, what: str) -> str:
    if type(v) is not str:
        raise _Refused(f"{what} is not a string")
    return v


def _text(v: Any, what: str) -> str:
    """A string that UTF-8 can hold."""
    try:
        _str(v, what).encode()
    except UnicodeEncodeError:
        raise _Refused(f"{what} has characters that UTF-8 does not have") from None
    return v


def _int(v: Any, what: str, low: int = 0, end: int = 1 << 63) -> int:
    if type(v) is not int or not low <= v < end:
        raise _Refused(f"{what} is {str(v)[:40]}, not an integer from {low} to {end - 1}")
    return v


def _shape(v: Any, what: str) -> tuple[int | None, ...]:
    return tuple(None if d is None else _int(d, f"a dimension of {what}", 0, 1 << 48) for d in _list(v, what))


def _declared(v: Any, what: str) -> str:
    if _str(v, f"the element type of {what}") not in _DECLARED:
        raise _Refused(f"{what} has the unknown element type '{v[:40]}'")
    return v
