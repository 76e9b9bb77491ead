"""ONNX operators in numpy: elementwise, reductions, and the ones that move elements or compute shapes.

Every entry of OPS maps an operator's attributes to a function of its inputs (arrays; None for an omitted one) that returns an
array, or a tuple for several outputs. Reductions and anything whose rounding depends on order work in float64 and round once
to float32, so the result is the float32 nearest to the exact one. These are not fast paths: what has an integer kernel never
comes here, except constants being folded and lookup tables being computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..errors import ShapeError, UnsupportedOpError

OPS: dict[str, Callable] = {}

_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float32", 11: "float64",
           12: "uint32", 13: "uint64", 16: "float32"}  # fmt: skip


def op(*names):
    def register(make):
        for n in names:
            OPS[n] = make
        return make

    return register


def simple(name, fn):
    OPS[name] = lambda attrs, fn=fn: fn


f32 = np.float32


def wide(fn):
    """float32 -> float64 -> fn -> float32: one rounding, whatever the platform's float32 libm does."""
    return lambda x: fn(x.astype(np.float64)).astype(x.dtype)


# ---- elementwise ------------------------------------------------------------------------------------------------------

_erf64 = np.vectorize(math.erf, otypes=[np.float64])


def erf(x):
    """Table-free error function: math.erf on the distinct values, since activations repeat a lot after quantization."""
    if x.size <= 4096:
        return _erf64(x.astype(np.float64)) if x.size else x.astype(np.float64)
    values, where = np.unique(x, return_inverse=True)
    return _erf64(values.astype(np.float64))[where].reshape(x.shape)


def sigmoid64(x):
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-x))


def _clip(attrs):
    lo_attr, hi_attr = attrs.get("min"), attrs.get("max")

    def clip(x, lo=None, hi=None):
        lo = lo_attr if lo is None else lo
        hi = hi_attr if hi is None else hi
        if lo is not None:
            x = np.maximum(x, np.asarray(lo, x.dtype))
        return x if hi is None else np.minimum(x, np.asarray(hi, x.dtype))

    return clip


OPS["Clip"] = _clip
simple("Relu", lambda x: np.maximum(x, x.dtype.type(0)))
simple("Identity", lambda x: x)
simple("Requantize", lambda x: x)
simple("Sigmoid", wide(sigmoid64))
simple("Tanh", wide(np.tanh))
simple("Erf", lambda x: erf(x).astype(x.dtype))
simple("Exp", wide(np.exp))
simple("Softsign", lambda x: x / (1 + np.abs(x)))
simple("Softplus", wide(lambda x: np.logaddexp(x, 0.0)))
simple("Mish", wide(lambda x: x * np.tanh(np.logaddexp(x, 0.0))))
simple("HardSwish", lambda x: x * np.clip(x + f32(3), f32(0), f32(6)) / f32(6))  # torch's order of operations
simple("Abs", np.abs)
simple("Neg", np.negative)
simple("Floor", np.floor)
simple("Ceil", np.ceil)
simple("Round", np.rint)
simple("Sign", np.sign)
simple("Sin", wide(np.sin))
simple("Cos", wide(np.cos))
simple("Not", np.logical_not)
simple("IsNaN", np.isnan)


def _quiet(fn):
    def run(*a):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return fn(*a)

    return run


simple("Log", _quiet(wide(np.log)))
simple("Sqrt", _quiet(np.sqrt))
simple("Reciprocal", _quiet(lambda x: (1 / x).astype(x.dtype)))


@op("Gelu")
def _gelu(attrs):
    if attrs.get("approximate", "none") == "tanh":
        c = math.sqrt(2 / math.pi)
        return wide(lambda x: 0.5 * x * (1 + np.tanh(c * (x + 0.044715 * x**3))))
    return lambda x: (0.5 * x.astype(np.float64) * (1 + erf(x.astype(np.float64) * math.sqrt(0.5)))).astype(x.dtype)


@op("HardSigmoid")
def _hard_sigmoid(attrs):
    a, b = f32(attrs.get("alpha", 0.2)), f32(attrs.get("beta", 0.5))
    if a == f32(1 / 6) and b == f32(0.5):
        return lambda x: np.clip(x + f32(3), f32(0), f32(6)) / f32(6)  # torch's hardsigmoid
    return lambda x: np.clip(a * x + b, f32(0), f32(1))


@op("LeakyRelu")
def _leaky(attrs):
    a = f32(attrs.get("alpha", 0.01))
    return lambda x: np.where(x < 0, x * a, x)


@op("Elu")
def _elu(attrs):
    a = float(attrs.get("alpha", 1.0))
    return wide(lambda x: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x))


@op("Celu")
def _celu(attrs):
    a = float(attrs.get("alpha", 1.0))
    return wide(lambda x: np.maximum(x, 0) + np.minimum(a * np.expm1(np.minimum(x, 0) / a), 0))


@op("Selu")
def _selu(attrs):
    a, g = float(attrs.get("alpha", 1.6732632423543772)), float(attrs.get("gamma", 1.0507009873554805))
    return wide(lambda x: g * np.where(x <= 0, a * np.expm1(np.minimum(x, 0)), x))


@op("ThresholdedRelu")
def _thresholded(attrs):
    a = f32(attrs.get("alpha", 1.0))
    return lambda x: np.where(x > a, x, f32(0))


@op("Swish")
def _swish(attrs):
    a = float(attrs.get("alpha", 1.0))
    return wide(lambda x: x * sigmoid64(a * x))


simple("PRelu", lambda x, slope: np.where(x < 0, x * slope, x))
simple("Add", np.add)
simple("Sub", np.subtract)
simple("Mul", np.multiply)


def _div(a, b):
    if a.dtype.kind == "f":
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.divide(a, b)
    q = np.floor_divide(np.abs(a), np.abs(b))  # ONNX: integers truncate towards zero
    return (np.sign(a) * np.sign(b) * q).astype(a.dtype)


simple("Div", _div)


def _pow(a, b):
    if a.dtype == np.float32 and np.size(b) == 1 and float(np.asarray(b).reshape(())) == 2.0:
        return a * a  # as torch computes x ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.power(a.astype(np.float64), b).astype(a.dtype)


simple("Pow", _pow)


def _mod(attrs):
    return np.fmod if attrs.get("fmod", 0) else np.mod


OPS["Mod"] = _mod


def _fold(fn):
    def run(*xs):
        r = xs[0]
        for x in xs[1:]:
            r = fn(r, x)
        return r

    return run


simple("Min", _fold(np.minimum))
simple("Max", _fold(np.maximum))
simple("Sum", _fold(np.add))
simple("Equal", np.equal)
simple("Greater", np.greater)
simple("GreaterOrEqual", np.greater_equal)
simple("Less", np.less)
simple("LessOrEqual", np.less_equal)
simple("And", np.logical_and)
simple("Or", np.logical_or)
simple("Xor", np.logical_xor)
simple("Where", np.where)


@op("Cast")
def _cast(attrs):
    to = attrs["to"]
    if to not in _DTYPES:
        raise UnsupportedOpError(f"Cast to ONNX type {to}; supported: {', '.join(sorted(set(_DTYPES.values())))}")
    dtype = np.dtype(_DTYPES[to])
    return lambda x: x.astype(dtype, copy=False)


simple("CastLike", lambda x, like: x.astype(like.dtype, copy=False))


@op("Dropout")
def _dropout(attrs):
    return lambda x, ratio=None, training=None: x


# ---- reductions -------------------------------------------------------------------------------------------------------


def _axes(attr, given, ndim, noop):
    axes = attr if given is None else [int(a) for a in np.asarray(given).ravel()]
    if not axes:
        return () if noop else tuple(range(ndim))
    return tuple(a % ndim for a in axes)


def _reduce(fn):
    def make(attrs):
        attr, keep, noop = attrs.get("axes"), bool(attrs.get("keepdims", 1)), bool(attrs.get("noop_with_empty_axes", 0))

        def run(x, axes=None):
            ax = _axes(attr, axes, x.ndim, noop)
            return np.asarray(fn(x, ax, keep), x.dtype) if ax else x

        return run

    return make


def _w(x):
    return x.astype(np.float64) if x.dtype.kind == "f" else x


OPS["ReduceMean"] = _reduce(lambda x, ax, k: _w(x).mean(axis=ax, keepdims=k))
OPS["ReduceSum"] = _reduce(lambda x, ax, k: _w(x).sum(axis=ax, keepdims=k))
OPS["ReduceProd"] = _reduce(lambda x, ax, k: _w(x).prod(axis=ax, keepdims=k))
OPS["ReduceMax"] = _reduce(lambda x, ax, k: x.max(axis=ax, keepdims=k))
OPS["ReduceMin"] = _reduce(lambda x, ax, k: x.min(axis=ax, keepdims=k))
OPS["ReduceL1"] = _reduce(lambda x, ax, k: np.abs(_w(x)).sum(axis=ax, keepdims=k))
OPS["ReduceL2"] = _reduce(lambda x, ax, k: np.sqrt(np.square(_w(x)).sum(axis=ax, keepdims=k)))
OPS["ReduceSumSquare"] = _reduce(lambda x, ax, k: np.square(_w(x)).sum(axis=ax, keepdims=k))
OPS["ReduceLogSum"] = _reduce(lambda x, ax, k: np.log(_w(x).sum(axis=ax, keepdims=k)))
OPS["ReduceLogSumExp"] = _reduce(
    lambda x, ax, k: np.log(np.exp(_w(x) - x.max(ax, keepdims=True)).sum(ax, keepdims=k)) + x.max(ax, keepdims=k)
)


def _arg(fn):
    def make(attrs):
        axis, keep, last = attrs.get("axis", 0), bool(attrs.get("keepdims", 1)), attrs.get("select_last_index", 0)

        def run(x):
            r = x.shape[axis] - 1 - fn(np.flip(x, axis), axis=axis) if last else fn(x, axis=axis)
            return np.expand_dims(r, axis).astype(np.int64) if keep else r.astype(np.int64)

        return run

    return make


OPS["ArgMax"] = _arg(np.argmax)
OPS["ArgMin"] = _arg(np.argmin)


@op("CumSum")
def _cumsum(attrs):
    exclusive, reverse = attrs.get("exclusive"), attrs.get("reverse")

    def run(x, axis):
        axis = int(np.asarray(axis).reshape(()))
        y = np.flip(_w(x), axis) if reverse else _w(x)
        total = np.cumsum(y, axis=axis)
        if exclusive:  # what came before each element; the total without the element would round, and give NaN behind infinity
            before = np.zeros_like(total)
            np.moveaxis(before, axis, 0)[1:] = np.moveaxis(total, axis, 0)[:-1]
            total = before
        return (np.flip(total, axis) if reverse else total).astype(x.dtype)

    return run


@op("TopK")
def _topk(attrs):
    axis, largest = attrs.get("axis", -1), attrs.get("largest", 1)

    def run(x, k):
        k = int(np.asarray(k).reshape(()))
        order = np.argsort(-x if largest else x, axis=axis, kind="stable").take(range(k), axis=axis)
        return np.take_along_axis(x, order, axis), order.astype(np.int64)

    return run


# ---- shapes and moves -------------------------------------------------------------------------------------------------


@op("Shape")
def _shape(attrs):
    start, end = attrs.get("start", 0), attrs.get("end")
    return lambda x: np.array(x.shape[start:end], np.int64)


simple("Size", lambda x: np.array(x.size, np.int64))


@op("Reshape")
def _reshape(attrs):
    allow_zero = attrs.get("allowzero", 0)

    def reshape(x, shape):
        dims = shape.tolist()
        if not allow_zero and 0 in dims:
            dims = [x.shape[i] if d == 0 else d for i, d in enumerate(dims)]
        return x.reshape(dims)

    return reshape


@op("Flatten")
def _flatten(attrs):
    axis = attrs.get("axis", 1)

    def flatten(x):
        a = axis % (x.ndim + 1) if axis < 0 else axis
        return x.reshape(math.prod(x.shape[:a]), math.prod(x.shape[a:]))

    return flatten


@op("Transpose")
def _transpose(attrs):
    perm = attrs.get("perm")
    return lambda x: x.transpose(perm)


@op("Squeeze")
def _squeeze(attrs):
    attr = attrs.get("axes")

    def squeeze(x, axes=None):
        given = attr if axes is None else [int(a) for a in np.asarray(axes).ravel()]
        return x.squeeze() if given is None else x.squeeze(tuple(given))

    return squeeze


@op("Unsqueeze")
def _unsqueeze(attrs):
    attr = attrs.get("axes")
    return lambda x, axes=None: np.expand_dims(x, tuple(attr if axes is None else [int(a) for a in np.asarray(axes).ravel()]))


@op("Concat")
def _concat(attrs):
    axis = attrs["axis"]
    return lambda *xs: np.concatenate(xs, axis)


@op("Split")
def _split(attrs):
    axis, attr, count = attrs.get("axis", 0), attrs.get("split"), attrs.get("num_outputs")

    def split(x, sizes=None):
        sizes = attr if sizes is None else [int(s) for s in sizes]
        if sizes is None:
            part = -(-x.shape[axis] // count)
            sizes = [part] * (count - 1) + [x.shape[axis] - part * (count - 1)]
        return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))

    return split


@op("Slice")
def _slice(attrs):
    def run(x, starts=None, ends=None, axes=None, steps=None):
        starts = attrs["starts"] if starts is None else starts.tolist()
        ends = attrs["ends"] if ends is None else ends.tolist()
        axes = (attrs.get("axes") or range(len(starts))) if axes is None else axes.tolist()
        steps = [1] * len(starts) if steps is None else steps.tolist()
        index = [slice(None)] * x.ndim
        for a, b, e, s in zip(axes, starts, ends, steps, strict=True):
            # A negative step with an end below -size means "through element 0", which Python spells None.
            index[a] = slice(b, None if s < 0 and e < -x.shape[a] else e, s)
        return x[tuple(index)]

    return run


@op("Gather")
def _gather(attrs):
    axis = attrs.get("axis", 0)

    def gather(x, index):
        if index.size and (index.max() >= x.shape[axis] or index.min() < -x.shape[axis]):
            raise ShapeError(f"an index of {int(index.max())} or {int(index.min())} is outside axis {axis} of size {x.shape[axis]}")
        if index.ndim == 0:  # a view
            return np.asarray(x[(slice(None),) * (axis % x.ndim) + (int(index),)])
        return np.take(x, index, axis=axis)

    return gather


@op("GatherElements")
def _gather_elements(attrs):
    axis = attrs.get("axis", 0)

    def gather(x, index):
        # ONNX reads only the part of x that lies under the index; numpy would broadcast an index of size 1.
        x = x[tuple(slice(None) if a == axis % x.ndim else slice(n) for a, n in enumerate(index.shape))]
        return np.take_along_axis(x, np.where(index < 0, index + x.shape[axis], index), axis)

    return gather


@op("GatherND")
def _gather_nd(attrs):
    batch = attrs.get("batch_dims", 0)

    def gather(x, index):
        index = np.asarray(index)
        return x[(*_leading(index.shape[:batch], index.ndim - 1), *np.moveaxis(index, -1, 0))]

    return gather


def _leading(sizes, rank):
    """Indices of the first axes themselves, one array an axis, that broadcast to ``rank`` dimensions."""
    return [np.arange(n).reshape([-1 if a == axis else 1 for a in range(rank)]) for axis, n in enumerate(sizes)]


# What a scattered value does to the one that is there.
_SCATTER = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _scatter(x, at, values, reduction: str):
    y = x.copy()
    if reduction == "none":
        y[at] = values
    else:
        _SCATTER[reduction].at(y, at, values)
    return y


@op("ScatterND")
def _scatter_nd(attrs):
    reduction = attrs.get("reduction", "none")
    return lambda x, index, values: _scatter(x, tuple(np.moveaxis(np.asarray(index), -1, 0)), values, reduction)


@op("ScatterElements")
def _scatter_elements(attrs):
    axis, reduction = attrs.get("axis", 0), attrs.get("reduction", "none")

    def scatter(x, index, values):
        at = list(np.broadcast_arrays(*_leading(index.shape, index.ndim)))
        at[axis] = index
        return _scatter(x, tuple(at), values, reduction)

    return scatter


@op("Pad")
def _pad(attrs):
    mode = attrs.get("mode", "constant")
    names = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in names:
        raise UnsupportedOpError(f"Pad with mode '{mode}'")

    def pad(x, pads=None, value=None, axes=None):
        pads = attrs["pads"] if pads is None else pads.tolist()
        axes = range(x.ndim) if axes is None else [int(a) % x.ndim for a in axes]
        half = len(pads) // 2
        width, crop = [(0, 0)] * x.ndim, [slice(None)] * x.ndim
        for i, a in enumerate(axes):
            before, after = pads[i], pads[half + i]
            width[a] = (max(before, 0), max(after, 0))
            crop[a] = slice(max(-before, 0), x.shape[a] - max(-after, 0))
        x = x[tuple(crop)]
        if mode != "constant":
            return np.pad(x, width, names[mode])
        return np.pad(x, width, constant_values=x.dtype.type(0) if value is None else np.asarray(value).reshape(()).astype(x.dtype))

    return pad


simple("Expand", lambda x, shape: np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist()))))
simple("Tile", lambda x, repeats: np.tile(x, repeats.tolist()))
simple("Range", lambda a, b, d: np.arange(a.reshape(()), b.reshape(()), d.reshape(()), dtype=a.dtype))
simple("NonZero", lambda x: np.array(np.nonzero(x), np.int64))


@op("Trilu")
def _trilu(attrs):
    upper = attrs.get("upper", 1)
    return lambda x, k=None: (np.triu if upper else np.tril)(x, 0 if k is None else int(np.asarray(k).reshape(())))


@op("ConstantOfShape")
def _constant_of_shape(attrs):
    value = np.asarray(attrs.get("value", np.zeros(1, np.float32))).reshape(-1)[:1]
    return lambda shape: np.full(tuple(shape.tolist()), value[0], value.dtype)


@op("DepthToSpace")
def _depth_to_space(attrs):
    s, mode = attrs["blocksize"], attrs.get("mode", "DCR")

    def run(x):
        b, c, h, w = x.shape
        if mode == "DCR":
            return x.reshape(b, s, s, c // s**2, h, w).transpose(0, 3, 4, 1, 5, 2).reshape(b, c // s**2, h * s, w * s)
        return x.reshape(b, c // s**2, s, s, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(b, c // s**2, h * s, w * s)

    return run


@op("SpaceToDepth")
def _space_to_depth(attrs):
    s = attrs["blocksize"]

    def run(x):
        b, c, h, w = x.shape
        return x.reshape(b, c, h // s, s, w // s, s).transpose(0, 3, 5, 1, 2, 4).reshape(b, c * s**2, h // s, w // s)

    return run


# ---- quantized constants and graph edges that no pass could fold --------------------------------------------------------


def _along(values, x, axis, block):
    if values.ndim == 0 or values.size == 1:
        return values.reshape(())
    if block:
        return np.repeat(values, block, axis=axis).take(range(x.shape[axis]), axis=axis)
    shape = [1] * x.ndim
    shape[axis] = -1
    return values.reshape(shape)


@op("DequantizeLinear")
def _dequantize(attrs):
    axis, block = attrs.get("axis", 1), attrs.get("block_size", 0)

    def run(q, scale, zero=None):
        z = 0 if zero is None else _along(zero.astype(np.int32), q, axis, block)
        return ((q.astype(np.int32) - z).astype(np.float32) * _along(scale, q, axis, block)).astype(np.float32)

    return run


@op("QuantizeLinear")
def _quantize(attrs):
    axis, block, out = attrs.get("axis", 1), attrs.get("block_size", 0), attrs.get("output_dtype", 0)

    def run(x, scale, zero=None):
        dtype = zero.dtype if zero is not None else np.dtype(_DTYPES[out or 2])
        info = np.iinfo(dtype)
        z = 0 if zero is None else _along(zero.astype(np.float64), x, axis, block)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            y = np.rint(x * (f32(1) / _along(scale, x, axis, block))).astype(np.float64)
        return np.clip(np.nan_to_num(y, nan=0.0, posinf=np.inf, neginf=-np.inf) + z, info.min, info.max).astype(dtype)

    return run
