"""The numpy reading of the specification, held against facts from outside this project: IEEE 754, libm, torch, AIMET."""

from __future__ import annotations

import ctypes
import ctypes.util
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgemm import errors, numerics

finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


# ---- fmaf ---------------------------------------------------------------------------------------------------------------


def exact_float32(value: Fraction) -> np.float32:
    """The float32 nearest to a rational, ties to even, by trying the neighbours of a first guess."""
    with np.errstate(over="ignore"):
        guess = np.float32(float(value))
    near = [guess, np.nextafter(guess, np.float32(np.inf)), np.nextafter(guess, np.float32(-np.inf))]
    near = [v for v in near if np.isfinite(v)]
    return min(near, key=lambda v: (abs(Fraction(float(v)) - value), int(v.view(np.int32)) & 1))


@settings(max_examples=500, deadline=None)
@given(finite32, finite32, finite32)
def test_fmaf_is_the_exact_result_rounded_once(a, b, c):
    value = Fraction(a) * Fraction(b) + Fraction(c)
    got = numerics.fmaf(a, b, c)[()]
    if abs(value) < Fraction(float(np.finfo(np.float32).max)):
        assert got == exact_float32(value)


@pytest.mark.parametrize(
    "a, b, c",
    [
        # 1 + 2^-24 + 2^-60: float64 rounds the tail away, and the tie then goes to even; the exact sum is above the tie.
        (2.0**-30, 2.0**-30, 1 + 2.0**-23),
        (1 + 2.0**-23, 2.0**-24, 1.0),
        (1 + 2.0**-23, -(2.0**-24), 1 + 2.0**-22),
        # A result below the smallest normal float32.
        (2.0**-75, 2.0**-74, 2.0**-149),
        (1.5, 2.0**-149, 2.0**-126),
    ],
)
def test_fmaf_where_two_roundings_would_differ(a, b, c):
    assert numerics.fmaf(a, b, c) == exact_float32(Fraction(a) * Fraction(b) + Fraction(c))


def test_fmaf_equals_libm(rng):
    name = ctypes.util.find_library("m")
    if name is None:
        pytest.skip("no libm to compare with")
    fmaf = ctypes.CDLL(name).fmaf
    fmaf.argtypes, fmaf.restype = [ctypes.c_float] * 3, ctypes.c_float
    a = rng.integers(-(2**31), 2**31 - 1, 20000).astype(np.float32)
    b = rng.uniform(1e-9, 1e-3, 20000).astype(np.float32)
    c = (-a * b * rng.choice([0, 1, 1 + 1e-7, 0.37], 20000)).astype(np.float32)  # much cancellation
    got = numerics.fmaf(a, b, c)
    assert got.tolist() == [fmaf(*map(float, t)) for t in zip(a, b, c, strict=True)]


def test_fmaf_keeps_infinities_and_nan():
    assert numerics.fmaf(np.inf, 1, 1) == np.inf
    assert np.isnan(numerics.fmaf(np.inf, 1, -np.inf))
    assert numerics.fmaf(3e38, 3e38, 0) == np.inf


# ---- quantize -----------------------------------------------------------------------------------------------------------


def test_quantize_rounds_ties_to_even_and_clamps():
    x = np.array([-2.5, -0.5, 0.5, 1.5, 2.5, 3.5, 1e30, -1e30, np.inf, -np.inf, np.nan], np.float32)
    assert numerics.quantize(x, 1.0, 3, 0, 255).tolist() == [1, 3, 3, 5, 5, 7, 255, 0, 255, 0, 3]


def test_quantize_multiplies_by_the_reciprocal(rng):
    torch = pytest.importorskip("torch")
    x = rng.normal(0, 4, 200000).astype(np.float32)
    for scale, zp in ((0.0173, 128), (np.float32(8 / 255), 0), (0.1, 200)):
        want = torch.fake_quantize_per_tensor_affine(torch.from_numpy(x), float(np.float32(scale)), zp, 0, 255).numpy()
        got = numerics.dequantize(numerics.quantize(x, scale, zp, 0, 255), scale, zp)
        np.testing.assert_array_equal(got, want)


def test_quantize_per_channel(rng):
    x = rng.normal(0, 1, (3, 5, 7)).astype(np.float32)
    scale, zp = np.array([0.1, 0.02, 3, 1e-7, 0.5], np.float32), np.array([0, 255, 128, 3, 7])
    got = numerics.quantize(x, scale, zp, 0, 255, axis=1)
    for c in range(5):
        np.testing.assert_array_equal(got[:, c], numerics.quantize(x[:, c], scale[c], zp[c], 0, 255))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_quantize_refuses_a_scale_without_meaning(scale):
    with pytest.raises(errors.QuantizationError, match="finite and > 0"):
        numerics.quantize([1.0], scale, 0, 0, 255)


def test_a_vector_of_scales_needs_an_axis():
    with pytest.raises(errors.ShapeError, match="axis"):
        numerics.quantize(np.zeros((2, 2)), [1.0, 2.0], 0, 0, 255)


@pytest.mark.parametrize("bits, signed", [(8, False), (8, True), (4, True), (16, False), (16, True)])
def test_every_grid_point_survives_a_round_trip(bits, signed):
    qmin, qmax = numerics.grid(bits, signed)
    q = np.arange(qmin, qmax + 1)
    for scale in (1.1920929e-7, 0.0137, 1.0, 512.3):
        np.testing.assert_array_equal(numerics.quantize(numerics.dequantize(q, scale, 3), scale, 3, qmin, qmax), q)


# ---- products -----------------------------------------------------------------------------------------------------------


def test_gemm_expands_into_its_four_terms(rng):
    x, w = rng.integers(0, 256, (5, 37)), rng.integers(-128, 128, (6, 37))
    zx, zw = 131, rng.integers(-9, 9, 6)
    four = x @ w.T - zx * w.sum(1) - x.sum(1)[:, None] * zw + 37 * zx * zw
    np.testing.assert_array_equal(numerics.gemm(x, w, zx, zw), four)


def test_gemm_wraps_and_never_saturates():
    k = 70000  # 70000 * 255 * 127 = 2266950000, just past 2^31
    x, w = np.full((1, k), 255), np.full((1, k), 127)
    assert numerics.gemm(x, w)[0, 0] == 70000 * 255 * 127 - 2**32
    with pytest.raises(errors.AccumulatorOverflowError, match="conv1: the accumulator of output channel 0"):
        numerics.prove_int32(w, name="conv1")


def test_accumulator_range_is_attained(rng):
    w, zx, zw = rng.integers(-128, 128, (4, 29)), 77, 5
    lo, hi = numerics.accumulator_range(w, zx, zw)
    worst = np.where(w - zw > 0, 255, 0)
    for n in range(4):
        assert numerics.gemm(worst[n : n + 1], w, zx, zw)[0, n] == hi[n]
        assert numerics.gemm(255 - worst[n : n + 1], w, zx, zw)[0, n] == lo[n]


@pytest.mark.parametrize("x_max, w_max, limit", [(255, 128, 65793), (255, 255, 33025), (255, 8, 1052688)])
def test_the_largest_k_that_cannot_overflow(x_max, w_max, limit):
    for k, fits in ((limit, True), (limit + 1, False)):
        lo, _ = numerics.accumulator_range(np.full((1, k), -w_max), x_max=x_max)
        assert (lo[0] >= -(2**31)) == fits


def test_a_convolution_is_a_gemm_over_its_windows(rng):
    x = rng.integers(0, 256, (2, 6, 7, 4)).astype(np.uint8)
    w = rng.integers(-128, 128, (8, 2, 3, 2))
    got = numerics.conv2d_accumulate(x, w, 9, 0, None, (2, 1), (1, 0, 2, 1), (1, 2), groups=2)
    padded = np.full((2, 9, 8, 4), 9, np.int64)
    padded[:, 1:7, :7] = x
    for b, i, j, n in [(0, 0, 0, 0), (1, 2, 3, 7), (0, 3, 5, 4), (1, 1, 0, 3)]:
        g = n // 4
        taps = padded[b, 2 * i : 2 * i + 3, j : j + 3 : 2, 2 * g : 2 * g + 2] - 9
        assert got[b, i, j, n] == (taps.transpose(2, 0, 1) * w[n]).sum()


def test_convolution_equals_torch_in_float64(rng):
    torch = pytest.importorskip("torch")
    for groups, k, stride, padding, dilation in ((1, 3, 2, 1, 1), (6, 3, 1, 1, 2), (3, 5, 2, 0, 1), (2, 1, 1, 0, 1)):
        x = rng.integers(0, 256, (2, 13, 11, 6))
        w = rng.integers(-128, 128, (12, 6 // groups, k, k))
        got = numerics.conv2d_accumulate(x, w, 100, 0, None, (stride,) * 2, (padding,) * 4, (dilation,) * 2, groups)
        xt, wt = torch.from_numpy((x - 100.0).transpose(0, 3, 1, 2).copy()), torch.from_numpy(w.astype(np.float64))
        want = torch.nn.functional.conv2d(xt, wt, None, stride, padding, dilation, groups).numpy().transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(got, want)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(errors.ShapeError, match="one K"):
        numerics.gemm(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(errors.ShapeError, match="groups"):
        numerics.conv2d_accumulate(np.zeros((1, 4, 4, 3)), np.zeros((4, 2, 3, 3)))
    with pytest.raises(errors.ShapeError, match="does not fit"):
        numerics.conv2d_accumulate(np.zeros((1, 2, 2, 3)), np.zeros((4, 3, 3, 3)))


# ---- layers -------------------------------------------------------------------------------------------------------------


def test_one_group_is_a_per_channel_layer(rng):
    x, w = rng.integers(0, 256, (3, 24)), rng.integers(-8, 8, (5, 24))
    scale, bias = rng.uniform(1e-3, 1e-2, 5).astype(np.float32), rng.normal(0, 1, 5).astype(np.float32)
    got = numerics.linear_grouped(x, w, 24, 0.25, 17, scale[:, None], bias=bias)
    np.testing.assert_allclose(got, numerics.linear(x, w, 0.25, 17, scale, bias=bias), rtol=1e-6)


def test_groups_match_the_real_product(rng):
    x, w = rng.integers(0, 256, (3, 70)), rng.integers(-8, 8, (5, 70))
    scale = rng.uniform(1e-3, 1e-2, (5, 3)).astype(np.float32)
    real = (0.25 * (x - 17.0)) @ (w * np.repeat(scale, 32, 1)[:, :70]).T
    np.testing.assert_allclose(numerics.linear_grouped(x, w, 32, 0.25, 17, scale), real, rtol=1e-5, atol=1e-5)


def test_lpbq_is_one_int8_weight(rng):
    w, b = rng.integers(-8, 8, (4, 32)), rng.integers(1, 17, (4, 4))
    s = rng.uniform(1e-3, 1e-2, 4).astype(np.float32)
    scale, q = numerics.expand_lpbq(w, b, s)
    assert q.dtype == np.int8
    np.testing.assert_array_equal(q.astype(int), w * np.repeat(b, 8, 1))
    with pytest.raises(errors.QuantizationError, match="1..16"):
        numerics.expand_lpbq(w, b * 0, s)
    with pytest.raises(errors.ShapeError):
        numerics.expand_lpbq(w, b[:, :3], s)


def test_dynamic_encoding_holds_its_range(rng):
    x = rng.normal(0.7, 2, (6, 50)).astype(np.float32)
    x[0], x[1], x[2] = 0, np.abs(x[1]), -np.abs(x[2])
    scale, zp = numerics.dynamic_encoding(x)
    assert (scale[0], zp[0]) == (1, 0) and zp[1] == 0 and zp[2] == 255
    back = numerics.dequantize(numerics.quantize(x, scale, zp, 0, 255, 0), scale, zp, 0)
    assert (np.abs(back - x) <= scale[:, None] * 1.001).all()
    scale, zp = numerics.dynamic_encoding(x, per_row=False, symmetric=True)
    assert scale.shape == (1,) and zp[0] == 128 and scale[0] == np.abs(x).max() / np.float32(127)
    with pytest.raises(errors.QuantizationError, match="NaN"):
        numerics.dynamic_encoding(np.array([[np.nan]]))


def test_pooling_by_hand():
    x = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 200]], np.uint8).reshape(1, 3, 3, 1)
    assert numerics.max_pool2d(x, (2, 2), (1, 1)).ravel().tolist() == [5, 6, 8, 200]
    assert numerics.max_pool2d(x, (3, 3), (2, 2), (1, 1, 1, 1)).ravel().tolist() == [5, 6, 8, 200]
    mean = numerics.avg_pool2d(x, (2, 2), (1, 1), (0, 0, 0, 0), True, 0.5, 1)
    assert mean.ravel().tolist() == [1.0, 1.5, 2.5, 26.875]
    part = numerics.avg_pool2d(x, (3, 3), (3, 3), (1, 1, 1, 1), False, 1.0, 0)
    assert part.ravel().tolist() == [3.0]


def test_add_is_three_float_operations():
    y = numerics.add(np.array([10], np.uint8), np.array([20], np.uint8), 0.1, 0, 0.2, 5, 0.05, 3)
    assert y[0] == 83  # 0.1*10 + 0.2*15 = 4 -> 80 steps of 0.05, zero point 3


@pytest.mark.parametrize("length", [0, 1, 2, 7])
@pytest.mark.parametrize("signed", [False, True])
def test_int4_packs_two_a_byte(length, signed, rng):
    v = rng.integers(*((-8, 8) if signed else (0, 16)), (3, length))
    p = numerics.pack_int4(v)
    assert p.shape == (3, (length + 1) // 2)
    np.testing.assert_array_equal(numerics.unpack_int4(p, length, signed), v)


def test_int4_refuses_what_does_not_fit():
    with pytest.raises(errors.QuantizationError, match="4-bit"):
        numerics.pack_int4([-1, 8])
    with pytest.raises(errors.ShapeError, match="bytes"):
        numerics.unpack_int4(np.zeros(3, np.uint8), 3, True)


# ---- encodings by AIMET's convention ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_weight_encoding_is_aimets(bits, per_channel, rng):
    torch = pytest.importorskip("torch")
    affine = pytest.importorskip("aimet_torch.quantization.affine")
    w = rng.normal(0, 0.2, (64, 40)).astype(np.float32)
    w[0], w[1], w[2], w[3] = 0, np.abs(w[1]), -np.abs(w[2]), 1e-9
    quantizer = affine.QuantizeDequantize((64, 1) if per_channel else (), bitwidth=bits, symmetric=True)
    t = torch.from_numpy(w)
    with quantizer.compute_encodings():
        quantizer(t)
    with torch.no_grad():
        want_scale, want = quantizer.get_scale().numpy(), quantizer(t).numpy()
    scale, q = numerics.weight_encoding(w, bits, 0 if per_channel else None)
    np.testing.assert_array_equal(scale.reshape(want_scale.shape), want_scale)
    np.testing.assert_array_equal(numerics.dequantize(q, scale, 0, 0), want)
    assert scale.dtype == np.float32 and q.dtype == np.int8


def test_weight_encoding_uses_the_whole_grid():
    scale, q = numerics.weight_encoding(np.array([[-1.0, 0.5]], np.float32))
    assert scale[0] == np.float32(1 / 128) and q.tolist() == [[-128, 64]]
    scale, q = numerics.weight_encoding(np.zeros((2, 3), np.float32))
    assert (scale == np.float32(1.1920929e-7)).all() and not q.any()


def test_grouped_weight_encoding_is_per_channel_on_slices(rng):
    w = rng.normal(0, 1, (5, 70)).astype(np.float32)
    scale, q = numerics.weight_encoding(w, 4, group_size=32)
    assert scale.shape == (5, 3)
    for g in range(3):
        part, values = numerics.weight_encoding(w[:, 32 * g : 32 * g + 32], 4)
        np.testing.assert_array_equal(scale[:, g], part)
        np.testing.assert_array_equal(q[:, 32 * g : 32 * g + 32], values)


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("lo, hi", [(-1.3, 2.7), (0.2, 5.0), (-4.0, -1.0), (0.0, 0.0), (-1e-9, 1e-9), (-0.003, 6.0)])
def test_activation_encoding_is_aimets(bits, lo, hi):
    torch = pytest.importorskip("torch")
    affine = pytest.importorskip("aimet_torch.quantization.affine")
    quantizer = affine.QuantizeDequantize((), bitwidth=bits, symmetric=False)
    with quantizer.compute_encodings():
        quantizer(torch.tensor([lo, hi]))
    scale, zero_point = numerics.activation_encoding(lo, hi, bits)
    assert scale == quantizer.get_scale().item() and zero_point == -quantizer.get_offset().item()


def test_encodings_refuse_what_has_no_range():
    with pytest.raises(errors.QuantizationError, match="NaN"):
        numerics.weight_encoding(np.array([[np.nan]]))
    with pytest.raises(errors.QuantizationError, match="calibrate"):
        numerics.activation_encoding(1.0, np.inf)


# ---- worked examples from outside -----------------------------------------------------------------------------------------


def test_matrix_product_of_a_lecture():
    """A by 127/2, B by 127/1, the integer product, and back: the figures of a course's slide."""
    a = np.array([[-1.54, 0.22], [-0.26, 0.65]], np.float32)
    b = np.array([0.35, -0.51], np.float32)
    qa, qb = numerics.quantize(a, 2 / 127, 0, -128, 127), numerics.quantize(b, 1 / 127, 0, -128, 127)
    product = numerics.gemm(qb[None], qa)[0]
    assert product.tolist() == [-5222, -3413]
    real = product * (2 / 127) * (1 / 127)
    np.testing.assert_allclose(real, [-0.648, -0.423], atol=5e-4)
    assert numerics.quantize(real, 3 / 127, 0, -128, 127).tolist() == [-27, -18]


def test_four_bit_layer_by_hand():
    """The hand computation of the AIMET course's lab: s = max|R| / (2^(b-1) - 1), round to nearest even, clamp."""
    w = np.array([[0.25, -0.32, 1.58, 2.10], [-1.45, 1.82, -0.29, 3.78], [-2.72, -0.12, 2.24, -1.84], [1.93, 0.49, 0.00, -3.19]])
    x = np.array([0.25, 0.17, -0.31, 0.55])
    sw, sx = np.abs(w).max() / 7, np.abs(x).max() / 7
    qw, qx = numerics.quantize(w, sw, 0, -8, 7), numerics.quantize(x, sx, 0, -8, 7)
    assert qw.tolist() == [[0, -1, 3, 4], [-3, 3, -1, 7], [-5, 0, 4, -3], [4, 1, 0, -6]] and qx.tolist() == [3, 2, -4, 7]
    y = numerics.gemm(qx[None], qw)[0]
    assert y.tolist() == [14, 50, -52, -28]
    assert np.abs(y * sw * sx - w @ x).max() < 0.25
