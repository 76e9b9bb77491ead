"""AIMET encodings files, read: every version into one type.

``read_encodings`` takes what ``sim.export``, ``sim.onnx.export`` and ``save_encodings_to_json`` write and returns an
:class:`Encodings`, a mapping from tensor name to :class:`TensorEncoding`. Nothing here knows a network: what a file leaves
open (which axis the scales of a weight belong to, for one) is settled by ``apply.py`` with the weight at hand.

The forms differ in one convention that matters. 0.6.1 and 1.0.0 count offsets from an *unsigned* grid,
``real = (q_u + offset) * scale`` with ``q_u`` in ``[0, 2^bits - 1]``, also where the tensor is symmetric (offset -128 at
8 bits). 2.0.0 and 2.1.0 give ONNX's zero point on the grid that ``output_dtype`` names. Here every encoding is
``real = scale * (q - zero_point)`` on a named grid: weights that are symmetric get the signed grid with zero point 0,
everything else the unsigned one (or what 2.x names).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EncodingError
from ..graph.ir import QParams

VERSIONS = ("0.6.1", "1.0.0", "2.0.0", "2.1.0")
_MAX_BITS = 32
_EXPORT_AGAIN = "export the encodings again with AIMET"


@dataclass(frozen=True, eq=False)
class TensorEncoding:
    """The grid of one tensor, as far as the file tells it.

    kind: "per_tensor", "per_channel", "per_block", "lpbq" (integer block scales times a float scale per channel) or "float".
    scale: float32; () per tensor, [C] per channel, per block flat or nested as the file has it, LPBQ: [C], the channel scales.
    zero_point: int32 of scale's shape, on the grid of ``bits`` and ``signed``.
    block_scale: int32, LPBQ only: the integer block scales, flat or nested.
    axis: the channel axis (per channel) or the blocked axis (per block, LPBQ); may be negative; None where the file does not say.
    channel_axis: LPBQ 2.1.0 only: the axis of the channel scales.
    block_size: elements that share a block scale; 0 where not blocked or not said.
    role: "activation" or "param"; "" in 2.x files, which do not tell them apart.
    reason: why there is no integer grid (kind "float"), else "".
    """

    name: str
    kind: str
    bits: int
    signed: bool = False
    scale: np.ndarray = field(default_factory=lambda: np.float32(1))
    zero_point: np.ndarray = field(default_factory=lambda: np.int32(0))
    axis: int | None = None
    channel_axis: int | None = None
    block_size: int = 0
    block_scale: np.ndarray | None = None
    role: str = ""
    reason: str = ""

    @property
    def qparams(self) -> QParams | None:
        """The grid as QParams, None when the tensor stays float. An axis the file does not give raises EncodingError."""
        if self.kind == "float":
            return None
        if self.kind == "per_tensor":
            return QParams(self.scale, self.zero_point, self.bits, self.signed)
        if self.kind == "per_channel" and self.axis is not None:
            return QParams(self.scale, self.zero_point, self.bits, self.signed, axis=self.axis)
        raise EncodingError(
            f"tensor '{self.name}': the shape of its {self.kind.replace('_', '-')} scales is known only together with the weight; "
            "load the network with qgemm.load(model, encodings=...) instead of asking the encoding alone"
        )


@dataclass(frozen=True)
class ModuleEncodings:
    """Encodings of one torch module in a ``_torch.encodings`` file. None in a position: no quantizer there."""

    inputs: dict[int, TensorEncoding] = field(default_factory=dict)
    outputs: dict[int, TensorEncoding] = field(default_factory=dict)
    params: dict[str, TensorEncoding] = field(default_factory=dict)


class Encodings(Mapping[str, TensorEncoding]):
    """What one encodings file says: tensor name -> :class:`TensorEncoding`.

    version: "0.6.1", "1.0.0", "2.0.0" or "2.1.0". producer: as the file gives it ("aimet-torch 2.42.0"), "" if absent.
    source: the file's name, or "<dict>", for messages.
    modules: module path -> :class:`ModuleEncodings` for a ``_torch.encodings`` file (then the mapping's keys read
    ``module.input[0]``, ``module.output[0]``, ``module.weight``), None for one keyed by ONNX tensor names.
    unmatched, off_grid: filled by ``apply_encodings``: names that are no tensor of the graph, and weights that were not on
    their grid and have been rounded to it.
    """

    def __init__(self, tensors, version, producer="", source="<dict>", modules=None):
        self._tensors: dict[str, TensorEncoding] = tensors
        self.version: str = version
        self.producer: str = producer
        self.source: str = source
        self.modules: dict[str, ModuleEncodings] | None = modules
        self.unmatched: list[str] = []
        self.off_grid: list[str] = []

    def __getitem__(self, name: str) -> TensorEncoding:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def activations(self) -> dict[str, TensorEncoding]:
        """Encodings of activations; in a 2.x file all that are not known to be parameters, that is all."""
        return {n: e for n, e in self.items() if e.role != "param"}

    @property
    def params(self) -> dict[str, TensorEncoding]:
        """Encodings of parameters; in a 2.x file all that are not known to be activations, that is all."""
        return {n: e for n, e in self.items() if e.role != "activation"}

    @property
    def floating(self) -> dict[str, str]:
        """Tensors that keep a floating-point format, with the reason."""
        return {n: e.reason for n, e in self.items() if e.kind == "float"}

    def __repr__(self) -> str:
        by = "torch modules" if self.modules is not None else "tensors"
        return f"<Encodings {self.version} of {len(self)} {by} from {self.source}>"


class _Entry:
    """One entry of the file with its place, so that every message can name it."""

    def __init__(self, source: str, name: str, fields: Any):
        self.source, self.name = source, name
        if not isinstance(fields, Mapping):
            self.fail(f"an encoding must be a JSON object, got {type(fields).__name__}")
        self.fields = fields

    def fail(self, rule: str, remedy: str = _EXPORT_AGAIN):
        raise EncodingError(f"{self.source}: tensor '{self.name}': {rule}; {remedy}")

    def get(self, key: str):
        if key not in self.fields:
            self.fail(f"the field '{key}' is missing")
        return self.fields[key]

    def integer(self, key: str, low: int, high: int) -> int:
        v = self.get(key)
        if isinstance(v, bool) or not isinstance(v, (int, float)) or (isinstance(v, float) and not v.is_integer()):
            self.fail(f"'{key}' must be an integer, got {v!r}")
        if not low <= v <= high:
            self.fail(f"'{key}' must lie in {low}..{high}, got {v}")
        return int(v)

    def flag(self, key: str) -> bool:
        """AIMET writes booleans as true/false or as the strings "True"/"False"."""
        v = self.get(key)
        if isinstance(v, str) and v.lower() in ("true", "false"):
            return v.lower() == "true"
        if not isinstance(v, bool):
            self.fail(f"'{key}' must be true or false, got {v!r}")
        return v

    def array(self, key: str, values: Any = None) -> np.ndarray:
        """A number or a (nested, not ragged) list of numbers as float64."""
        values = self.get(key) if values is None else values
        if not _numbers_only(values):
            self.fail(f"'{key}' must hold numbers only")
        try:
            return np.asarray(values, np.float64)
        except (ValueError, OverflowError):
            self.fail(f"'{key}' is a ragged list: its rows have different lengths")

    def scales(self, key: str, values: Any = None) -> np.ndarray:
        s = self.array(key, values)
        if s.size == 0:
            self.fail(f"'{key}' is empty")
        with np.errstate(over="ignore", under="ignore"):
            f = s.astype(np.float32)
        bad = ~(np.isfinite(f) & (f > 0))
        if bad.any():
            self.fail(f"every scale must be finite and > 0, got {s[bad].ravel()[0]}", "calibrate the quantizer again and export")
        return f

    def integers(self, key: str, values: Any, low: int, high: int) -> np.ndarray:
        v = self.array(key, values)
        bad = ~np.isfinite(v) | (np.rint(v) != v)
        if bad.any():
            self.fail(f"'{key}' must hold integers, got {v[bad].ravel()[0]}")
        out = (v < low) | (v > high)
        if out.any():
            self.fail(f"'{key}' must lie in {low}..{high}, got {int(v[out].ravel()[0])}")
        return v.astype(np.int64)


def _numbers_only(values: Any, depth: int = 0) -> bool:
    if isinstance(values, (list, tuple)):
        return depth < 8 and all(_numbers_only(v, depth + 1) for v in values)
    return isinstance(values, (int, float)) and not isinstance(values, bool)


def _from_offsets(e: _Entry, scale, offset, bits: int, symmetric: bool, role: str, **kw) -> TensorEncoding:
    """An encoding of 0.6.1 or 1.0.0, whose offset counts from the unsigned grid: q_u = round(real / scale) - offset."""
    half = 1 << (bits - 1)
    if role == "param" and symmetric and np.isin(offset, (-half, 1 - half)).all():
        # The signed grid with zero point 0. Offset 1 - half is a strict symmetric grid, which leaves -half unused.
        return TensorEncoding(e.name, bits=bits, signed=True, scale=scale, zero_point=np.zeros(scale.shape, np.int32), role=role, **kw)
    return TensorEncoding(e.name, bits=bits, signed=False, scale=scale, zero_point=(-offset).astype(np.int32), role=role, **kw)


def _no_shift(e: _Entry):
    shift = np.ravel(e.array("zero_point_shift")) if "zero_point_shift" in e.fields else ()
    if np.any(shift):
        e.fail(
            f"zero_point_shift {shift[0]} asks for a grid between the integers, which integer arithmetic has not",
            "quantize the tensor without zero_point_shift",
        )


def _float_encoding(e: _Entry, bits: int, role: str, what: str = "floating point") -> TensorEncoding:
    reason = f"AIMET keeps it in {what} ({bits} bits), not on an integer grid"
    return TensorEncoding(e.name, kind="float", bits=bits, role=role, reason=reason)


def _parse_legacy(source: str, name: str, entries: Any, role: str) -> TensorEncoding:
    """0.6.1: a list with one object per tensor, channel or block (or, by module, the object itself)."""
    if isinstance(entries, Mapping):
        entries = [entries]
    if not isinstance(entries, list) or not entries:
        raise EncodingError(f"{source}: tensor '{name}': expected a non-empty list of encodings; {_EXPORT_AGAIN}")
    items = [_Entry(source, name, x) for x in entries]
    first = items[0]
    kinds = {(str(i.get("dtype")).lower(), i.integer("bitwidth", 1, _MAX_BITS)) for i in items}
    if len(kinds) != 1:
        first.fail("its channels have different dtypes or bit widths")
    dtype, bits = kinds.pop()
    if dtype == "float":
        return _float_encoding(first, bits, role)
    if dtype != "int":
        first.fail(f"dtype must be 'int' or 'float', got {dtype!r}")
    for i in items:
        _no_shift(i)
    symmetric = {i.flag("is_symmetric") for i in items}
    if len(symmetric) != 1:
        first.fail("some of its channels are symmetric and some are not")
    scale = first.scales("scale", [i.get("scale") for i in items])
    offset = first.integers("offset", [i.get("offset") for i in items], 1 - (1 << bits), 0)
    if scale.ndim != 1 or offset.ndim != 1:
        first.fail("'scale' and 'offset' must be numbers, one of each per entry")
    if len(items) == 1:
        return _from_offsets(first, scale[0], offset[0], bits, symmetric.pop(), role, kind="per_tensor")
    if role != "param":
        first.fail(f"an activation has one encoding, this one has {len(items)}")
    return _from_offsets(first, scale, offset, bits, symmetric.pop(), role, kind="per_channel")


def _parse_100(e: _Entry, role: str) -> TensorEncoding:
    dtype = e.get("dtype")
    bits = e.integer("bw", 1, _MAX_BITS)
    if not isinstance(dtype, str) or dtype.upper() not in ("INT", "FLOAT"):
        e.fail(f"dtype must be 'INT' or 'FLOAT', got {dtype!r}")
    if dtype.upper() == "FLOAT":
        return _float_encoding(e, bits, role)
    enc_type = e.get("enc_type")
    if enc_type not in ("PER_TENSOR", "PER_CHANNEL", "PER_BLOCK", "LPBQ"):
        e.fail(f"enc_type must be PER_TENSOR, PER_CHANNEL, PER_BLOCK or LPBQ, got {enc_type!r}")
    _no_shift(e)
    scale = np.atleast_1d(e.scales("scale"))
    offset = np.atleast_1d(e.integers("offset", e.get("offset"), 1 - (1 << bits), 0))
    if scale.shape != offset.shape or scale.ndim != 1:
        e.fail(f"'scale' has {scale.size} values and 'offset' {offset.size}: {enc_type} needs as many of the one as of the other")
    symmetric = e.flag("is_sym")
    if enc_type == "PER_TENSOR":
        if scale.size != 1:
            e.fail(f"PER_TENSOR has one scale, got {scale.size}")
        return _from_offsets(e, scale[0], offset[0], bits, symmetric, role, kind="per_tensor")
    if role == "activation":
        e.fail(f"an activation is encoded per tensor, got {enc_type}")
    if enc_type == "PER_CHANNEL":
        return _from_offsets(e, scale, offset, bits, symmetric, role, kind="per_channel")
    block_size = e.integer("block_size", 1, 1 << 31)
    if enc_type == "PER_BLOCK":
        return _from_offsets(e, scale, offset, bits, symmetric, role, kind="per_block", block_size=block_size)
    if not symmetric or (offset != -(1 << (bits - 1))).any():
        e.fail(f"LPBQ is symmetric: every offset must be {-(1 << (bits - 1))}")
    compressed = e.integer("compressed_bw", 1, bits)
    block_scale = np.atleast_1d(e.integers("per_block_int_scale", e.get("per_block_int_scale"), 1, 1 << (bits - compressed)))
    return TensorEncoding(
        e.name,
        kind="lpbq",
        bits=compressed,
        signed=True,
        scale=scale,
        zero_point=np.zeros(scale.shape, np.int32),
        block_size=block_size,
        block_scale=block_scale.astype(np.int32),
        role=role,
    )


def _parse_2x(e: _Entry) -> TensorEncoding:
    dtype = e.get("output_dtype")
    m = re.fullmatch(r"(u?)int(\d{1,2})", dtype) if isinstance(dtype, str) else None
    if m is None:
        if isinstance(dtype, str) and (f := re.fullmatch(r"(?:b?float|fp)(\d{1,2}).*", dtype.lower())):
            return _float_encoding(e, int(f[1]), "", dtype)
        e.fail(f"output_dtype must name an integer or float type, got {dtype!r}")
    signed, bits = not m[1], int(m[2])
    if not 1 <= bits <= _MAX_BITS:
        e.fail(f"output_dtype must have 1 to {_MAX_BITS} bits, got {dtype!r}")
    axis = e.integer("axis", -8, 7) if e.fields.get("axis") is not None else None
    block_size = e.integer("block_size", 1, 1 << 31) if e.fields.get("block_size") is not None else 0
    if "per_block_int_scale" in e.fields or isinstance(e.fields.get("y_scale"), Mapping):
        return _parse_2x_lpbq(e, bits, signed, axis, block_size)
    scale = e.scales("y_scale")
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    zero_point = np.zeros(scale.shape, np.int64)
    if e.fields.get("y_zero_point") is not None:
        zero_point = e.integers("y_zero_point", e.fields["y_zero_point"], low, high)
        if zero_point.shape != scale.shape:
            e.fail(f"y_scale has the shape {scale.shape} and y_zero_point {zero_point.shape}: they must be the same")
    if scale.size == 1 and axis is None:
        scale, zero_point = scale.reshape(()), zero_point.reshape(())
        if block_size:
            e.fail("block_size is given without an axis")
    elif axis is None:
        e.fail(f"y_scale has {scale.size} values but no axis says whose they are")
    elif not block_size and scale.ndim != 1:
        e.fail(f"y_scale must be a flat list for an axis without block_size, got the shape {scale.shape}")
    kind = "per_block" if block_size else "per_tensor" if axis is None else "per_channel"
    grid = dict(bits=bits, signed=signed, scale=scale, zero_point=zero_point.astype(np.int32))
    return TensorEncoding(e.name, kind=kind, axis=axis, block_size=block_size, **grid)


def _parse_2x_lpbq(e: _Entry, bits: int, signed: bool, axis: int | None, block_size: int) -> TensorEncoding:
    if not signed:
        e.fail(f"LPBQ is symmetric and needs a signed output_dtype, got uint{bits}")
    if np.any(e.array("y_zero_point", e.fields.get("y_zero_point") or 0)):
        e.fail("LPBQ is symmetric, but y_zero_point is not 0")
    if axis is None or not block_size:
        e.fail("LPBQ needs both 'axis' and 'block_size'")
    channel_axis = None
    if "per_block_int_scale" in e.fields:
        ints, scale = e.get("per_block_int_scale"), e.scales("per_channel_float_scale")
    else:
        inner = _Entry(e.source, e.name, e.get("y_scale"))
        ints, scale = inner.get("x"), inner.scales("x_scale")
        extra = set(inner.fields) - {"x", "x_scale", "axis", "x_zero_point", "input_dtype"}
        if extra or np.any(inner.array("x_zero_point", inner.fields.get("x_zero_point") or 0)):
            e.fail(f"a doubly quantized scale with {', '.join(sorted(extra)) or 'x_zero_point'} is not LPBQ", "use LPBQ or plain blocks")
        channel_axis = inner.integer("axis", -8, 7) if inner.fields.get("axis") is not None else None
    block_scale = e.integers("block scale", ints, 1, 1 << 16)
    if block_scale.ndim == 0:
        e.fail("the integer block scales must be a list")
    return TensorEncoding(
        e.name,
        kind="lpbq",
        bits=bits,
        signed=True,
        scale=scale.ravel(),
        zero_point=np.zeros(scale.size, np.int32),
        axis=axis,
        channel_axis=channel_axis,
        block_size=block_size,
        block_scale=block_scale.astype(np.int32),
    )


def _load_json(path: str | os.PathLike) -> Any:
    source = Path(path).name
    try:
        text = Path(path).read_bytes()
    except OSError as err:
        raise EncodingError(
            f"{path}: the encodings file cannot be read ({err.strerror}); give the path of a file that AIMET wrote"
        ) from None
    try:
        return json.loads(text)
    except UnicodeDecodeError:
        raise EncodingError(f"{source}: not a text file; give the .encodings file (JSON), not the model") from None
    except (ValueError, RecursionError) as err:
        end = isinstance(err, json.JSONDecodeError) and (err.pos >= len(err.doc.rstrip()) or err.msg.startswith("Unterminated string"))
        what = "the file is cut off" if end and text.strip() else "the file is empty" if not text.strip() else "not JSON"
        raise EncodingError(f"{source}: {what} ({err}); copy or export the encodings again") from None


def _producer(data: Mapping) -> str:
    p = data.get("producer", "")
    if isinstance(p, Mapping):
        return " ".join(str(p[k]) for k in ("package", "version") if k in p)
    return str(p)


def _section(data: Mapping, source: str, key: str, kinds: tuple[type, ...]):
    if key not in data:
        raise EncodingError(f"{source}: the section '{key}' is missing, so this is no AIMET encodings file; {_EXPORT_AGAIN}")
    if not isinstance(data[key], kinds):
        wanted = " or ".join("an object" if k is dict else "a list" for k in kinds)
        raise EncodingError(f"{source}: '{key}' must be {wanted}, got {type(data[key]).__name__}; {_EXPORT_AGAIN}")
    return data[key]


def _by_module(section: Any) -> bool:
    """True for the activations of a ``_torch.encodings`` file: {module: {"input" | "output": {"0": encoding}}}."""
    return (
        isinstance(section, Mapping)
        and bool(section)
        and all(isinstance(v, Mapping) and v.keys() <= {"input", "output"} for v in section.values())
    )


def _read_by_module(data: Mapping, source: str) -> tuple[dict, dict]:
    tensors: dict[str, TensorEncoding] = {}
    modules: dict[str, ModuleEncodings] = {}
    for module, sides in _section(data, source, "activation_encodings", (dict,)).items():
        found = modules.setdefault(module, ModuleEncodings())
        for side, entries in sides.items():
            if not isinstance(entries, Mapping):
                raise EncodingError(f"{source}: module '{module}': '{side}' must be an object keyed by position; {_EXPORT_AGAIN}")
            for position, entry in entries.items():
                name = f"{module}.{side}[{position}]"
                if not str(position).isdecimal():
                    raise EncodingError(f"{source}: tensor '{name}': the position must be a number; {_EXPORT_AGAIN}")
                tensors[name] = _parse_legacy(source, name, entry, "activation")
                (found.inputs if side == "input" else found.outputs)[int(position)] = tensors[name]
    for name, entries in _section(data, source, "param_encodings", (dict,)).items():
        tensors[name] = _parse_legacy(source, name, entries, "param")
        module, _, param = name.rpartition(".")
        modules.setdefault(module, ModuleEncodings()).params[param] = tensors[name]
    return tensors, modules


def _add(tensors: dict, enc: TensorEncoding, source: str):
    if enc.name in tensors:
        raise EncodingError(f"{source}: tensor '{enc.name}': it has two encodings; {_EXPORT_AGAIN}")
    tensors[enc.name] = enc


def read_encodings(source: str | os.PathLike | Mapping) -> Encodings:
    """Read an AIMET encodings file, or the same as a dict: versions 0.6.1, 1.0.0, 2.0.0, 2.1.0, and ``_torch.encodings``.

    Raises EncodingError for a file that is missing, cut, not JSON or of an unknown version or schema, and for an entry whose
    scale is NaN, zero or negative, whose offset lies outside its grid, or whose parts do not fit together. The message names
    the file, the tensor, the rule and the remedy.
    """
    if isinstance(source, Encodings):
        return source
    if isinstance(source, Mapping):
        data, where = source, "<dict>"
    elif isinstance(source, (str, os.PathLike)):
        data, where = _load_json(source), Path(source).name
    else:
        raise EncodingError(f"encodings must be a path or a dict, got {type(source).__name__}; give what AIMET exported")
    if not isinstance(data, Mapping):
        raise EncodingError(f"{where}: the file must hold a JSON object, got {type(data).__name__}; {_EXPORT_AGAIN}")
    tensors: dict[str, TensorEncoding] = {}
    if _by_module(data.get("activation_encodings")) and isinstance(data.get("param_encodings"), Mapping):
        # Whatever version such a file claims, its entries are written as in 0.6.1; save_encodings_to_json claims none.
        tensors, modules = _read_by_module(data, where)
        return Encodings(tensors, "0.6.1", _producer(data), where, modules)
    version = data.get("version")
    if version not in VERSIONS:
        raise EncodingError(
            f"{where}: encodings version {version!r} is not one of {', '.join(VERSIONS)}; "
            "export with sim.onnx.export(..., encoding_version='2.0.0')"
        )
    if version >= "2":
        for i, fields in enumerate(_section(data, where, "encodings", (list,))):
            name = fields.get("name") if isinstance(fields, Mapping) else None
            entry = _Entry(where, name if isinstance(name, str) else f"#{i}", fields)
            if not isinstance(name, str):
                entry.fail("the field 'name' is missing")
            if set(fields) == {"name"}:  # how AIMET 2.x writes a float16 or bfloat16 tensor
                _add(tensors, _float_encoding(entry, 16, ""), where)
            else:
                _add(tensors, _parse_2x(entry), where)
        return Encodings(tensors, version, _producer(data), where)
    for role in ("activation", "param"):
        section = _section(data, where, f"{role}_encodings", (dict,) if version == "0.6.1" else (list,))
        if isinstance(section, dict):
            for name, entries in section.items():
                _add(tensors, _parse_legacy(where, name, entries, role), where)
        else:
            for i, fields in enumerate(section):
                name = fields.get("name") if isinstance(fields, Mapping) else None
                entry = _Entry(where, name if isinstance(name, str) else f"#{i}", fields)
                if not isinstance(name, str):
                    entry.fail("the field 'name' is missing")
                _add(tensors, _parse_100(entry, role), where)
    return Encodings(tensors, version, _producer(data), where)
