"""Activation by activation products and 16-bit activations, against exact integers in numpy, on every path and thread count."""

import ctypes
import itertools

import numpy as np
import pytest

from qgemm import _core, errors, numerics

SHAPES = [(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1), (5, 16, 3), (6, 64, 64), (7, 65, 63), (13, 100, 129), (48, 17, 5), (97, 130, 61)]


def random_operand(rng, shape, signed):
    lo = -128 if signed else 0
    x = rng.integers(lo, lo + 256, shape).astype(np.int8 if signed else np.uint8)
    return x, int(rng.integers(lo, lo + 256))


def exact_matmul(a, za, b, zb):
    return np.matmul(a.astype(np.int64) - za, b.astype(np.int64) - zb)


@pytest.mark.parametrize("signed", list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("transposed", list(itertools.product([False, True], repeat=2)))
def test_matmul_is_exact(isa, signed, transposed):
    rng = np.random.default_rng(3)
    for batch in ((), (1,), (3,), (2, 2)):
        for m, n, k in SHAPES:
            a, za = random_operand(rng, (*batch, m, k), signed[0])
            b, zb = random_operand(rng, (*batch, k, n), signed[1])
            want = exact_matmul(a, za, b, zb)
            a_in = np.ascontiguousarray(np.swapaxes(a, -1, -2)) if transposed[0] else a
            b_in = np.ascontiguousarray(np.swapaxes(b, -1, -2)) if transposed[1] else b
            where = dict(transpose_a=transposed[0], transpose_b=transposed[1])
            got = np.empty((*batch, m, n), np.int32)
            _core.matmul(a_in, b_in, got, 0.02, za, 0.03, zb, **where)
            assert np.array_equal(got, want), (batch, m, n, k)
            y = (want.astype(np.float32) * np.float32(np.float64(np.float32(0.02)) * np.float64(np.float32(0.03)))).astype(np.float32)
            floats = np.empty((*batch, m, n), np.float32)
            _core.matmul(a_in, b_in, floats, 0.02, za, 0.03, zb, **where)
            assert np.array_equal(floats, y + np.float32(0))
            out_scale = float(np.abs(y).max(initial=0) / 100 + 1e-3)
            q = np.empty((*batch, m, n), np.uint8)
            _core.matmul(a_in, b_in, q, 0.02, za, 0.03, zb, out_scale, 120, 3, 250, **where)
            r = np.float32(1) / np.float32(out_scale)
            assert np.array_equal(q, np.clip(np.rint(y * r) + 120, 3, 250).astype(np.uint8))


def test_matmul_shares_work_between_threads():
    omp = ctypes.CDLL("libgomp.so.1")
    before = _core.max_threads()
    rng = np.random.default_rng(4)
    for batch, m, n, k in [((), 200, 320, 256), ((12,), 128, 128, 64), ((2,), 300, 70, 500)]:
        a, za = random_operand(rng, (*batch, m, k), False)
        b, zb = random_operand(rng, (*batch, n, k), False)
        want = exact_matmul(a, za, np.swapaxes(b, -1, -2), zb)
        for threads in (1, 2):
            omp.omp_set_num_threads(threads)
            got = np.empty((*batch, m, n), np.int32)
            _core.matmul(a, b, got, 1.0, za, 1.0, zb, transpose_b=True)
            omp.omp_set_num_threads(before)
            assert np.array_equal(got, want)


def test_matmul_errors():
    a, b, out = np.zeros((4, 8), np.uint8), np.zeros((8, 5), np.uint8), np.empty((4, 5), np.float32)
    with pytest.raises(errors.ShapeError, match="K = 8"):
        _core.matmul(a, b[:7].copy(), out, 1, 0, 1, 0)
    with pytest.raises(errors.ShapeError, match=r"end in \(4, 5\)"):
        _core.matmul(a, b, out[:3].copy(), 1, 0, 1, 0)
    with pytest.raises(errors.DTypeError, match="a must be uint8 or int8"):
        _core.matmul(a.astype(np.int32), b, out, 1, 0, 1, 0)
    with pytest.raises(errors.QuantizationError, match="b_scale"):
        _core.matmul(a, b, out, 1, 0, float("nan"), 0)
    with pytest.raises(errors.QuantizationError, match="not finite"):
        _core.matmul(a, b, out, 1e30, 0, 1e30, 0)
    with pytest.raises(errors.QuantizationError, match="a_zero_point"):
        _core.matmul(a, b, out, 1, -1, 1, 0)
    with pytest.raises(errors.LayoutError, match="contiguous"):
        _core.matmul(a[:, ::2], b[:4], out, 1, 0, 1, 0)
    with pytest.raises(errors.AccumulatorOverflowError, match="K = 40000"):
        _core.matmul(np.zeros((1, 40000), np.uint8), np.zeros((40000, 1), np.uint8), np.empty((1, 1), np.int32), 1, 0, 1, 0)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("weight_zero_point", [False, True])
def test_linear16_is_exact(isa, bits, weight_zero_point):
    rng = np.random.default_rng(5)
    top = 1 << (bits - 1)
    for m, n, k in SHAPES:
        x = rng.integers(0, 65536, (m, k)).astype(np.uint16)
        w = rng.integers(-top, top, (n, k)).astype(np.int8)
        scale = rng.uniform(0.001, 0.01, n).astype(np.float32)
        bias = rng.normal(size=n).astype(np.float32)
        zw = rng.integers(-top, top, n).astype(np.int32) if weight_zero_point else None
        zx, sx = int(rng.integers(0, 65536)), 1e-4
        packed = _core.pack_linear(w, scale, zero_point=zw, bias=bias, bits=bits)
        acc = (x.astype(np.int64) - zx) @ (w.astype(np.int64) - (0 if zw is None else zw[:, None])).T
        s = (np.float64(np.float32(sx)) * scale.astype(np.float64)).astype(np.float32)
        y = numerics.fmaf(acc.astype(np.float32), s, bias)
        got = np.empty((m, n), np.float32)
        _core.linear16(x, packed, got, sx, zx)
        assert np.array_equal(got, y), (m, n, k)
        for dtype, zy, hi in ((np.uint16, 30000, 65535), (np.uint8, 100, 255)):
            out_scale = float(np.abs(y).max() / (hi / 3)) if y.size else 1.0
            out_scale = out_scale or 1.0
            q = np.empty((m, n), dtype)
            _core.linear16(x, packed, q, sx, zx, out_scale, zy)
            want = np.clip(np.rint(y * (np.float32(1) / np.float32(out_scale))) + zy, 0, hi)
            assert np.array_equal(q, want.astype(dtype))
            # Signed tensors name the same real numbers half a grid lower, bounds too.
            half = (hi + 1) // 2
            signed = np.empty((m, n), np.int16 if hi > 255 else np.int8)
            _core.linear16((x ^ 0x8000).view(np.int16), packed, signed, sx, zx - 32768, out_scale, zy - half)
            assert np.array_equal(signed, (want - half).astype(signed.dtype))
            _core.linear16(x, packed, signed, sx, zx, out_scale, zy - half, 7 - half, 90)
            assert np.array_equal(signed, np.clip(want - half, 7 - half, 90).astype(signed.dtype))


def test_linear16_errors():
    packed = _core.pack_linear(np.ones((3, 4), np.int8), np.ones(3, np.float32))
    x, out = np.zeros((2, 4), np.uint16), np.empty((2, 3), np.float32)
    with pytest.raises(errors.DTypeError, match="uint16"):
        _core.linear16(x.astype(np.uint8), packed, out, 1.0, 0)
    with pytest.raises(errors.QuantizationError, match="x_zero_point must lie in 0..65535"):
        _core.linear16(x, packed, out, 1.0, 65536)
    with pytest.raises(errors.QuantizationError, match="x_zero_point must lie in -32768..32767"):
        _core.linear16(x.view(np.int16), packed, out, 1.0, 32768)
    with pytest.raises(errors.QuantizationError, match="lo must be an integer in -32768..32767"):
        _core.linear16(x, packed, np.empty((2, 3), np.int16), 1.0, 0, 1.0, 0, 40000)
    with pytest.raises(errors.DTypeError, match="linear16"):
        _core.linear(x, packed, out)
    with pytest.raises(errors.QuantizationError, match="not finite"):
        _core.linear16(x, _core.pack_linear(np.ones((3, 4), np.int8), np.full(3, 1e30, np.float32)), out, 1e30, 0)
    # Centred weights of 0, whose stored values overflow int32.
    zeros = _core.pack_linear(np.full((1, 70000), 127, np.int8), np.ones(1, np.float32), zero_point=np.full(1, 127, np.int32))
    with pytest.raises(errors.AccumulatorOverflowError, match="K = 70000"):
        _core.linear16(np.full((1, 70000), 65535, np.uint16), zeros, np.empty((1, 1), np.float32), 1.0, 0)
    with pytest.raises(errors.PackedWeightError, match="default x_scale"):
        _core.linear16(x, _core.pack_linear(np.ones((3, 4), np.int8), np.ones(3, np.float32), x_scale=0.5, x_zero_point=3), out, 1.0, 0)


def test_signed_input_is_unsigned_with_128_added(isa):
    rng = np.random.default_rng(6)
    x = rng.integers(-128, 128, (7, 33)).astype(np.int8)
    w = rng.integers(-128, 128, (20, 33)).astype(np.int8)
    packed = _core.pack_linear(w, np.ones(20, np.float32), x_scale=0.5, x_zero_point=-5 + 128)
    got = np.empty((7, 20), np.int32)
    _core.linear(x, packed, got)
    assert np.array_equal(got, (x.astype(np.int64) + 5) @ w.astype(np.int64).T)
