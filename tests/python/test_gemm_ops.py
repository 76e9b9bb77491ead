"""Packing and linear layers of the engine against ``qgemm.numerics``: values on every instruction set path, and every refusal."""

from __future__ import annotations

import numpy as np
import pytest

from qgemm import _core, errors, numerics

# Around a register tile's rows, a panel's columns (16 to 64) and a group of four k; primes; empty.
SHAPES = [
    (0, 5, 7),
    (3, 0, 7),
    (3, 5, 0),
    (1, 1, 1),
    (1, 16, 4),
    (5, 15, 3),
    (6, 17, 5),
    (7, 33, 31),
    (12, 48, 64),
    (13, 63, 67),
    (4, 64, 32),
    (2, 65, 127),
    (19, 131, 101),
]
OUTPUTS = [np.float32, np.int32, np.uint8, np.int8]


class Layer:
    """A random linear layer, packed by the engine and described for numerics."""

    def __init__(self, rng, n, k, bits=8, group_size=0, zero_points=False, bias=True, bias_int32=False, x_scale=0.02, x_zero_point=117):
        lo, hi = numerics.grid(bits, True)
        self.weight = rng.integers(lo, hi + 1, (n, k)).astype(np.int8)
        groups = -(-k // group_size) if group_size else 1
        self.scale = rng.uniform(1e-3, 1e-2, (n, groups) if group_size else n).astype(np.float32)
        self.zero_point = rng.integers(lo, hi + 1, n).astype(np.int32) if zero_points else None
        self.bias = rng.normal(0, 3, n).astype(np.float32) if bias else None
        self.bias_int32 = rng.integers(-9999, 9999, n).astype(np.int32) if bias_int32 else None
        self.bits, self.group_size, self.x_scale, self.x_zero_point = bits, group_size, x_scale, x_zero_point

    def pack(self, dynamic=False):
        encoding = {} if dynamic else {"x_scale": self.x_scale, "x_zero_point": self.x_zero_point}
        return _core.pack_linear(
            self.weight,
            self.scale,
            self.zero_point,
            self.bias,
            self.bias_int32,
            bits=self.bits,
            group_size=self.group_size,
            name="fc",
            **encoding,
        )

    def real(self, x, lo=-np.inf, hi=np.inf):
        zw = 0 if self.zero_point is None else self.zero_point
        if self.group_size:
            return numerics.linear_grouped(
                x, self.weight, self.group_size, self.x_scale, self.x_zero_point, self.scale, zw, self.bias, lo, hi
            )
        return numerics.linear(x, self.weight, self.x_scale, self.x_zero_point, self.scale, zw, self.bias, self.bias_int32, lo, hi)


def run(x, packed, n, dtype, **output):
    out = np.full((x.shape[0], n), 77, dtype)
    _core.linear(x, packed, out, **output)
    return out


def expected(layer, x, dtype, out_scale=1.0, out_zero_point=0, lo=None, hi=None):
    if dtype == np.int32:
        return numerics.gemm(x, layer.weight, layer.x_zero_point, 0 if layer.zero_point is None else layer.zero_point, layer.bias_int32)
    if dtype == np.float32:
        return layer.real(x, -np.inf if lo is None else lo, np.inf if hi is None else hi)
    qmin, qmax = numerics.grid(8, dtype == np.int8)
    y = numerics.requantize(layer.real(x), out_scale, out_zero_point, qmin if lo is None else lo, qmax if hi is None else hi)
    return y.astype(dtype)


@pytest.mark.parametrize("dtype", OUTPUTS, ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_static(shape, dtype, isa, rng):
    m, n, k = shape
    for options in (
        {},
        {"zero_points": True},
        {"bias": False, "bias_int32": True},
        {"bits": 4},
        {"bits": 4, "zero_points": True, "x_zero_point": 0},
        {"x_zero_point": 255},
    ):
        layer = Layer(rng, n, k, **options)
        x = rng.integers(0, 256, (m, k)).astype(np.uint8)
        output = {} if dtype in (np.float32, np.int32) else {"out_scale": 0.13, "out_zero_point": int(dtype == np.uint8) * 100 - 28}
        np.testing.assert_array_equal(run(x, layer.pack(), n, dtype, **output), expected(layer, x, dtype, **output), str(options))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [4, 32, 64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_groups(shape, group_size, bits, isa, rng):
    m, n, k = shape
    layer = Layer(rng, n, k, bits=bits, group_size=group_size)
    x = rng.integers(0, 256, (m, k)).astype(np.uint8)
    np.testing.assert_array_equal(run(x, layer.pack(), n, np.float32), expected(layer, x, np.float32))
    output = {"out_scale": 0.13, "out_zero_point": 100}
    np.testing.assert_array_equal(run(x, layer.pack(), n, np.uint8, **output), expected(layer, x, np.uint8, **output))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"bits": 4, "group_size": 32}, {"zero_points": True}], ids=str)
def test_dynamic(options, per_row, symmetric, isa, rng):
    for m, n, k in SHAPES:
        layer = Layer(rng, n, k, **options)
        x = rng.normal(0.3, 2, (m, k)).astype(np.float32)
        if m > 2:
            x[1] = 0
        out = np.empty((m, n), np.float32)
        _core.linear_dynamic(x, layer.pack(dynamic=True), out, per_row, symmetric, lo=-20.0, hi=30.0)
        want = numerics.linear_dynamic(
            x,
            layer.weight,
            layer.scale,
            0 if layer.zero_point is None else layer.zero_point,
            layer.bias,
            layer.group_size,
            per_row,
            symmetric,
            -20.0,
            30.0,
        )
        np.testing.assert_array_equal(out, want)


def test_saturating_data(isa, rng):
    """Sums that a 16-bit intermediate could not hold."""
    for xv in (0, 255):
        for wv in (-128, -127, 127):
            w = np.full((20, 300), wv, np.int8)
            packed = _core.pack_linear(w, np.ones(1, np.float32), x_scale=0.5)
            x = np.full((7, 300), xv, np.uint8)
            assert (run(x, packed, 20, np.int32) == 300 * xv * wv).all()


def test_signed_input_is_unsigned_input_plus_128(isa, rng):
    layer = Layer(rng, 33, 21, x_zero_point=128 - 5)
    x = rng.integers(-128, 128, (7, 21)).astype(np.int8)
    want = numerics.linear(x, layer.weight, layer.x_scale, -5, layer.scale, bias=layer.bias)
    np.testing.assert_array_equal(run(x, layer.pack(), 33, np.float32), want)


@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"zero_points": True}], ids=str)
def test_sixteen_bit_activations(options, isa, rng):
    for m, n, k in SHAPES:
        layer = Layer(rng, n, k, **options)
        x = rng.integers(0, 65536, (m, k)).astype(np.uint16)
        zw = 0 if layer.zero_point is None else layer.zero_point
        for zx in (0, 32768, 65535):
            want = numerics.linear16(x, layer.weight, 1e-4, zx, layer.scale, zw, layer.bias)
            out = np.empty((m, n), np.float32)
            _core.linear16(x, layer.pack(dynamic=True), out, 1e-4, zx)
            np.testing.assert_array_equal(out, want)
            for dtype, top in ((np.uint8, 255), (np.uint16, 65535)):
                q = np.empty((m, n), dtype)
                _core.linear16(x, layer.pack(dynamic=True), q, 1e-4, zx, 0.01, top // 2)
                np.testing.assert_array_equal(q, numerics.requantize(want, 0.01, top // 2, 0, top).astype(dtype))


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_matmul_of_two_activations(transpose_a, transpose_b, isa, rng):
    for (m, n, k), a_type, b_type in zip(SHAPES, [np.uint8, np.int8] * 7, [np.uint8, np.uint8, np.int8] * 5, strict=False):
        a, b = (
            rng.integers(*((-128, 128) if t == np.int8 else (0, 256)), shape).astype(t)
            for t, shape in ((a_type, (2, m, k)), (b_type, (2, k, n)))
        )
        za, zb = 7 if a_type == np.int8 else 131, -3 if b_type == np.int8 else 77
        acc = np.stack([numerics.gemm(a[i], b[i].T, za, zb) for i in range(2)])
        left = np.ascontiguousarray(a.swapaxes(1, 2)) if transpose_a else a
        right = np.ascontiguousarray(b.swapaxes(1, 2)) if transpose_b else b
        for dtype in OUTPUTS:
            out = np.empty((2, m, n), dtype)
            output = {} if dtype in (np.int32, np.float32) else {"out_scale": 0.3, "out_zero_point": 100}
            _core.matmul(left, right, out, 0.02, za, 0.03, zb, transpose_a=transpose_a, transpose_b=transpose_b, **output)
            y = numerics.to_float(acc, numerics.output_scale(0.02, [0.03]))
            qmin, qmax = numerics.grid(8, dtype == np.int8)
            want = {np.int32: acc, np.float32: y}.get(dtype, numerics.requantize(y, 0.3, 100, qmin, qmax).astype(dtype))
            np.testing.assert_array_equal(out, want, f"{(m, n, k)} {np.dtype(dtype)}")


def test_bounds_are_relu_and_relu6(isa, rng):
    layer = Layer(rng, 40, 50)
    x = rng.integers(0, 256, (9, 50)).astype(np.uint8)
    y = run(x, layer.pack(), 40, np.float32, lo=0.0, hi=6.0)
    assert y.min() == 0 and y.max() == 6
    np.testing.assert_array_equal(y, expected(layer, x, np.float32, lo=0.0, hi=6.0))
    grid = {"out_scale": 0.05, "out_zero_point": 30, "lo": 30, "hi": 150}
    q = run(x, layer.pack(), 40, np.uint8, **grid)
    assert q.min() == 30 and q.max() == 150
    np.testing.assert_array_equal(q, expected(layer, x, np.uint8, **grid))


def test_the_output_is_the_quantization_of_the_float_output(isa, rng):
    layer = Layer(rng, 64, 96)
    x = rng.integers(0, 256, (50, 96)).astype(np.uint8)
    y = run(x, layer.pack(), 64, np.float32)
    q = np.empty(y.shape, np.uint8)
    _core.quantize(y, np.array([0.07], np.float32), np.array([90], np.int32), 0, 255, q)
    np.testing.assert_array_equal(run(x, layer.pack(), 64, np.uint8, out_scale=0.07, out_zero_point=90), q)


def test_strided_rows(isa, rng):
    layer = Layer(rng, 30, 20)
    wide, out = rng.integers(0, 256, (5, 33)).astype(np.uint8), np.full((5, 41), 9.0, np.float32)
    _core.linear(wide[:, 3:23], layer.pack(), out[:, 4:34])
    np.testing.assert_array_equal(out[:, 4:34], expected(layer, wide[:, 3:23], np.float32))
    assert (out[:, :4] == 9).all() and (out[:, 34:] == 9).all()


@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"bits": 4, "group_size": 32}, {"zero_points": True}], ids=str)
def test_packing_keeps_the_integers(options, rng):
    for _, n, k in SHAPES:
        layer = Layer(rng, n, k, **options)
        packed = layer.pack()
        np.testing.assert_array_equal(_core.unpack_weight(packed), layer.weight)
        info = _core.packed_info(packed)
        assert (info["kind"], info["n"], info["k"], info["bits"]) == ("linear", n, k, layer.bits)
        assert info["bytes"] == packed.nbytes and info["group_size"] == layer.group_size


def test_packing_is_deterministic(rng):
    layer = Layer(rng, 70, 90)
    np.testing.assert_array_equal(layer.pack(), layer.pack())


def test_a_dead_channel_has_aimets_smallest_scale(isa):
    scale, weight = numerics.weight_encoding(np.zeros((3, 8), np.float32))
    packed = _core.pack_linear(weight, scale, bias=np.array([1.5, -2.0, 0.0], np.float32), x_scale=float(scale[0]))
    assert run(np.full((2, 8), 255, np.uint8), packed, 3, np.float32).tolist() == [[1.5, -2.0, 0.0]] * 2


# ---- what is refused ----------------------------------------------------------------------------------------------------

W = np.ones((4, 8), np.int8)
S = np.full(4, 0.5, np.float32)


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"weight": W.astype(np.uint8)}, errors.DTypeError, ["weight", "int8", "uint8"]),
        ({"weight": W.astype(np.float32)}, errors.DTypeError, ["weight", "int8", "float32"]),
        ({"weight": W[0]}, errors.ShapeError, ["weight", "2 dimensions"]),
        ({"weight": np.ones((8, 4), np.int8).T}, errors.LayoutError, ["weight", "ascontiguousarray"]),
        ({"scale": S.astype(np.float64)}, errors.DTypeError, ["scale", "float32"]),
        ({"scale": S[:3]}, errors.ShapeError, ["scale", "4", "3"]),
        ({"scale": S * 0}, errors.QuantizationError, ["scale", "> 0", "fc1"]),
        ({"scale": S * np.float32(np.nan)}, errors.QuantizationError, ["scale", "finite", "fc1"]),
        ({"scale": -S}, errors.QuantizationError, ["scale", "> 0"]),
        ({"scale": S * np.float32(np.inf)}, errors.QuantizationError, ["scale", "finite"]),
        ({"zero_point": np.zeros(3, np.int32)}, errors.ShapeError, ["zero_point", "4", "3"]),
        ({"zero_point": np.zeros(4, np.int64)}, errors.DTypeError, ["zero_point", "int32"]),
        ({"zero_point": np.full(4, 128, np.int32)}, errors.QuantizationError, ["zero_point", "-128..127"]),
        ({"bias": np.zeros(5, np.float32)}, errors.ShapeError, ["bias", "4", "5"]),
        ({"bias": np.zeros(4, np.float16)}, errors.DTypeError, ["bias", "float32"]),
        ({"bias": np.full(4, np.nan, np.float32)}, errors.QuantizationError, ["bias", "fc1"]),
        ({"bias_int32": np.zeros(4, np.float32)}, errors.DTypeError, ["bias_int32", "int32"]),
        ({"bits": 5}, errors.ShapeError, ["bits", "5"]),
        ({"bits": 4, "weight": W * 8}, errors.QuantizationError, ["4-bit", "-8..7", "8"]),
        ({"group_size": 3}, errors.ShapeError, ["group_size", "3"]),
        ({"group_size": 4}, errors.ShapeError, ["scale", "8", "4"]),
        ({"group_size": 8, "zero_point": np.zeros(4, np.int32)}, errors.QuantizationError, ["group_size", "zero points"]),
        ({"x_scale": 0.0}, errors.QuantizationError, ["input scale", "> 0"]),
        ({"x_scale": float("nan")}, errors.QuantizationError, ["input scale", "finite"]),
        ({"x_zero_point": 256}, errors.QuantizationError, ["zero_point", "0..255", "256"]),
        ({"x_zero_point": -1}, errors.QuantizationError, ["zero_point", "0..255", "-1"]),
        ({"x_scale": 1e30, "scale": S * np.float32(1e30)}, errors.QuantizationError, ["scale", "finite"]),
    ],
    ids=lambda v: str(sorted(v)) if isinstance(v, dict) else None,
)
def test_pack_linear_refuses(change, error, words):
    arguments = {"weight": W, "scale": S, "name": "fc1"} | change
    with pytest.raises(error) as caught:
        _core.pack_linear(**arguments)
    assert isinstance(caught.value, errors.QgemmError)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_pack_linear_proves_the_accumulator():
    w = np.full((2, 65794), -128, np.int8)
    w[0] = 1
    with pytest.raises(errors.AccumulatorOverflowError, match="fc1.*channel 1.*int32"):
        _core.pack_linear(w, np.ones(1, np.float32), name="fc1")
    _core.pack_linear(w[:, 1:].copy(), np.ones(1, np.float32), name="fc1")


def arguments(**change):
    packed = _core.pack_linear(W, S, x_scale=0.5, x_zero_point=3)
    return {"x": np.zeros((3, 8), np.uint8), "packed": packed, "out": np.zeros((3, 4), np.float32)} | change


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"x": np.zeros((3, 8), np.int16)}, errors.DTypeError, ["x", "uint8", "int16"]),
        ({"x": np.zeros((3, 8), np.float32)}, errors.DTypeError, ["x", "uint8", "float32"]),
        ({"x": np.zeros((3, 7), np.uint8)}, errors.ShapeError, ["K = 7", "K = 8"]),
        ({"x": np.zeros(8, np.uint8)}, errors.ShapeError, ["x", "2 dimensions"]),
        ({"x": np.zeros((1, 3, 8), np.uint8)}, errors.ShapeError, ["x", "2 dimensions"]),
        ({"x": np.zeros((8, 3), np.uint8).T}, errors.LayoutError, ["x", "contiguous"]),
        ({"x": np.zeros((3, 16), np.uint8)[:, ::2]}, errors.LayoutError, ["x", "contiguous"]),
        ({"x": np.zeros((3, 8), np.uint8)[::-1]}, errors.LayoutError, ["x", "backwards"]),
        ({"x": np.lib.stride_tricks.as_strided(np.zeros(64, np.uint8), (3, 8), (4, 1))}, errors.LayoutError, ["x", "overlap"]),
        ({"out": np.zeros((3, 5), np.float32)}, errors.ShapeError, ["out", "(3, 4)", "(3, 5)"]),
        ({"out": np.zeros((2, 4), np.float32)}, errors.ShapeError, ["out", "(3, 4)"]),
        ({"out": np.zeros((3, 4), np.float64)}, errors.DTypeError, ["out", "float64"]),
        ({"out": np.zeros((3, 4), np.int16)}, errors.DTypeError, ["out", "int16"]),
        ({"out": np.zeros((4, 3), np.float32).T}, errors.LayoutError, ["out", "contiguous"]),
        ({"packed": np.zeros(512, np.uint8)}, errors.PackedWeightError, ["magic"]),
        ({"packed": np.zeros(512, np.int8)}, errors.DTypeError, ["packed", "uint8"]),
        ({"packed": np.zeros((2, 512), np.uint8)}, errors.ShapeError, ["packed"]),
        ({"out": np.zeros((3, 4), np.uint8), "out_scale": 0.0}, errors.QuantizationError, ["out_scale", "> 0"]),
        ({"out": np.zeros((3, 4), np.uint8), "out_scale": float("nan")}, errors.QuantizationError, ["out_scale", "finite"]),
        ({"out": np.zeros((3, 4), np.uint8), "out_zero_point": 256}, errors.QuantizationError, ["out_zero_point", "0..255"]),
        ({"out": np.zeros((3, 4), np.int8), "out_zero_point": 128}, errors.QuantizationError, ["out_zero_point", "-128..127"]),
        ({"out": np.zeros((3, 4), np.uint8), "lo": -1}, errors.QuantizationError, ["lo", "0..255"]),
        ({"out": np.zeros((3, 4), np.uint8), "lo": 0.5}, errors.QuantizationError, ["lo", "integer"]),
        ({"out": np.zeros((3, 4), np.uint8), "lo": 9, "hi": 8}, errors.QuantizationError, ["lo", "hi"]),
        ({"lo": float("nan")}, errors.QuantizationError, ["NaN"]),
        ({"out": np.zeros((3, 4), np.int32), "lo": 0}, errors.DTypeError, ["lo", "int32"]),
    ],
)
def test_linear_refuses(change, error, words):
    with pytest.raises(error) as caught:
        _core.linear(**arguments(**change))
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_linear_refuses_to_write_over_its_input():
    buffer = np.zeros((3, 8), np.uint8)
    square = _core.pack_linear(np.ones((8, 8), np.int8), np.ones(1, np.float32), x_scale=0.5)
    with pytest.raises(errors.LayoutError, match="overlap"):
        _core.linear(buffer, square, buffer)
    frozen = np.zeros((3, 8), np.uint8)
    frozen.flags.writeable = False
    with pytest.raises(errors.LayoutError, match="read-only"):
        _core.linear(np.zeros((3, 8), np.uint8), square, frozen)


def test_linear_leaves_the_output_alone_when_it_refuses():
    out = np.full((3, 4), 5.0, np.float32)
    with pytest.raises(errors.ShapeError):
        _core.linear(**arguments(x=np.zeros((3, 9), np.uint8), out=out))
    assert (out == 5).all()


def test_linear_takes_linear_weights_only():
    conv = _core.pack_conv2d(np.ones((4, 8, 1, 1), np.int8), S, x_scale=0.5)
    with pytest.raises(errors.PackedWeightError, match="convolution"):
        _core.linear(**arguments(packed=conv))


def test_grouped_weights_have_no_int32_output():
    packed = _core.pack_linear(W, np.ones((4, 2), np.float32), group_size=4, x_scale=0.5)
    with pytest.raises(errors.DTypeError, match="group_size"):
        _core.linear(**arguments(packed=packed, out=np.zeros((3, 4), np.int32)))


def test_linear_dynamic_refuses():
    packed, out = _core.pack_linear(W, S), np.zeros((3, 4), np.float32)
    x = np.ones((3, 8), np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        x[2, 5] = bad
        with pytest.raises(errors.QuantizationError, match="row 2"):
            _core.linear_dynamic(x, packed, out)
    with pytest.raises(errors.DTypeError, match="float32"):
        _core.linear_dynamic(x.astype(np.float64), packed, out)
    with pytest.raises(errors.DTypeError, match="float32"):
        _core.linear_dynamic(np.ones((3, 8), np.float32), packed, np.zeros((3, 4), np.uint8))
    with pytest.raises(errors.ShapeError, match="K = 9"):
        _core.linear_dynamic(np.ones((3, 9), np.float32), packed, out)
    static = _core.pack_linear(W, S, x_scale=0.5, x_zero_point=3)
    with pytest.raises(errors.PackedWeightError, match="static"):
        _core.linear_dynamic(np.ones((3, 8), np.float32), static, out)


def test_dynamic_encodings_at_the_ends_of_float32(isa):
    """Subnormal ranges and ranges wider than float32's largest number still have a finite scale and reciprocal."""
    rows = np.array([[1e-45, 0], [-1e-42, 1e-42], [3e38, -3e38], [-3.4e38, 0], [0, 0], [1e-38, 5e-39]], np.float32)
    for symmetric in (False, True):
        q, scale, zp = np.empty(rows.shape, np.uint8), np.empty(6, np.float32), np.empty(6, np.int32)
        _core.quantize_dynamic(rows, q, scale, zp, True, symmetric)
        want_scale, want_zp = numerics.dynamic_encoding(rows, True, symmetric)
        np.testing.assert_array_equal(scale, want_scale)
        np.testing.assert_array_equal(zp, want_zp)
        np.testing.assert_array_equal(q, numerics.quantize(rows, scale, zp, 0, 255, axis=0))


# ---- dispatch -----------------------------------------------------------------------------------------------------------


def test_force_isa_refuses_names_it_does_not_know():
    with pytest.raises(errors.IsaError, match="choose one of: .*ref"):
        _core.force_isa("sse9")
    assert _core.active_isa() in _core.available_isas()


def test_every_kernel_is_listed_once():
    rows = _core.kernels()
    names = [r["name"] for r in rows]
    assert len(set(names)) == len(names) and {r["isa"] for r in rows} <= set(_core.isas())
    assert {r["op"] for r in rows if r["isa"] == "ref"} == {r["op"] for r in rows}


def test_explain_names_the_active_path(isa):
    text = _core.explain()
    assert f"{isa}: available  <- active" in text
    selected = {r["op"] for r in _core.kernels() if r["selected"]}
    assert selected == {r["op"] for r in _core.kernels()}


@pytest.mark.parametrize(("offset", "row_bytes"), [(1, 32), (0, 34)])
def test_elements_off_their_alignment_are_refused(offset, row_bytes):
    packed = _core.pack_linear(np.ones((3, 8), np.int8), np.ones(1, np.float32))
    x = np.ndarray((4, 8), np.float32, np.zeros(160, np.uint8), offset, (row_bytes, 4))
    with pytest.raises(errors.LayoutError, match="x is not aligned"):
        _core.linear_dynamic(x, packed, np.empty((4, 3), np.float32))
