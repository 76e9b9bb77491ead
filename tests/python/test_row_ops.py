"""Softmax, LayerNorm and RMSNorm of rows: the engine against the numpy reading, bit for bit, and both against float64."""

import numpy as np
import pytest

from qgemm import _core, errors, numerics

SHAPES = [(1, 1), (3, 5), (2, 16), (4, 33), (2, 3, 64), (5, 130), (0, 7), (3, 0)]


def same(a, b):
    return np.array_equal(a.view(np.uint32), b.view(np.uint32)) if a.dtype == np.float32 else np.array_equal(a, b)


def both_outputs(y, scale, zero_point, call, **bounds):
    """float32 gives y itself, bytes its quantization."""
    got = np.empty(y.shape, np.float32)
    call(got)
    assert same(got, y)
    q = np.empty(y.shape, np.uint8)
    call(q, out_scale=scale, out_zero_point=zero_point, **bounds)
    lo, hi = bounds.get("lo", 0), bounds.get("hi", 255)
    assert np.array_equal(q, numerics.requantize(y, scale, zero_point, lo, hi))


def mask_like(rng, shape):
    """A mask of x's shape that is broadcast over some of its axes; the first element of a row stays visible."""
    kept = tuple(s if i == len(shape) - 1 or rng.random() < 0.5 else 1 for i, s in enumerate(shape))
    m = np.where(rng.random(kept) < 0.3, -np.inf, rng.normal(0, 1, kept)).astype(np.float32)
    m[..., :1] = 0
    return np.broadcast_to(m, shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_softmax(isa, shape):
    rng = np.random.default_rng(0)
    for masked in (False, True):
        mask = mask_like(rng, shape) if masked else None
        x = rng.normal(0, 3, shape).astype(np.float32)
        both_outputs(numerics.softmax(x, mask), 1 / 255, 0, lambda out, x=x, mask=mask, **k: _core.softmax(x, out, mask, **k))
        q = rng.integers(0, 256, shape).astype(np.uint8)
        real = numerics.dequantize(q, 0.05, 77)
        y = numerics.softmax(real, mask)
        both_outputs(y, 0.003, 11, lambda out, q=q, mask=mask, **k: _core.softmax(q, out, mask, 0.05, 77, **k), lo=15, hi=200)
        wide = real.astype(np.float64) + (0 if mask is None else mask)
        e = np.exp(wide - wide.max(-1, keepdims=True, initial=-np.inf))
        np.testing.assert_allclose(y, e / e.sum(-1, keepdims=True), rtol=2e-6)


def test_softmax_exp_is_within_an_ulp():
    x = np.concatenate([-np.logspace(-9, np.log10(87), 200_000), [0.0]]).astype(np.float32)
    truth = np.exp(x.astype(np.float64))
    assert (np.abs(numerics.softmax_exp(x) - truth) / np.spacing(truth.astype(np.float32))).max() < 1
    assert numerics.softmax_exp([0.0, -87.5, -np.inf]).tolist() == [1.0, 0.0, 0.0]


def test_softmax_of_bytes_beyond_float32(isa):
    """A scale so large that a byte's number is infinite: the row is NaN, as the float32 operation's."""
    x = np.arange(200, dtype=np.uint8).reshape(1, 200)
    both_outputs(np.full(x.shape, np.nan, np.float32), 0.01, 9, lambda out, **k: _core.softmax(x, out, None, 3e38, 0, **k))


def test_softmax_of_rows_without_a_maximum(isa):
    x = np.zeros((4, 20), np.float32)
    x[0, 3], x[1, 5], x[2, :] = np.nan, np.inf, -np.inf
    out, q = np.empty_like(x), np.empty(x.shape, np.uint8)
    _core.softmax(x, out)
    assert np.isnan(out[:3]).all() and (out[3] == np.float32(0.05)).all()
    assert same(out, numerics.softmax(x))
    _core.softmax(x, q, out_scale=0.01, out_zero_point=9)
    assert (q[:3] == 9).all() and (q[3] == 14).all()
    hidden = np.where(np.arange(20) < 5, 0, -np.inf).astype(np.float32)
    _core.softmax(x[3:], out[3:], np.broadcast_to(hidden, (1, 20)))
    assert out[3].tolist() == [np.float32(0.2)] * 5 + [0.0] * 15


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("center", [True, False])
def test_norm(isa, shape, center):
    rng = np.random.default_rng(1)
    gamma, beta = rng.normal(1, 0.3, shape[-1]).astype(np.float32), rng.normal(0, 0.3, shape[-1]).astype(np.float32)
    for affine in ({}, dict(gamma=gamma), dict(gamma=gamma, beta=beta)):
        x = rng.normal(5, 3, shape).astype(np.float32)
        if shape[-1]:
            both_outputs(numerics.norm(x, **affine, center=center), 0.02, 130,
                         lambda out, x=x, a=affine, **k: _core.norm(x, out, **a, center=center, **k))  # fmt: skip
        q = rng.integers(0, 256, shape).astype(np.uint8)
        grid = dict(x_scale=0.04, x_zero_point=99)
        y = numerics.norm_quantized(q, 0.04, 99, **affine, center=center)
        both_outputs(y, 0.03, 120, lambda out, q=q, a=affine | grid, **k: _core.norm(q, out, **a, center=center, **k), lo=120, hi=250)
        if shape[-1]:
            wide = 0.04 * (q.astype(np.float64) - 99)
            wide = wide - wide.mean(-1, keepdims=True) if center else wide
            truth = wide / np.sqrt(np.square(wide).mean(-1, keepdims=True) + 1e-5)
            np.testing.assert_allclose(y, truth * affine.get("gamma", 1) + affine.get("beta", 0), atol=2e-6, rtol=1e-6)


def test_norm_keeps_precision_far_from_zero(isa):
    """A mean 30,000 times the deviation leaves the float32 inputs, not the arithmetic, to blame."""
    rng = np.random.default_rng(2)
    x = (30000 + rng.normal(0, 1, (4, 768))).astype(np.float32)
    out = np.empty_like(x)
    _core.norm(x, out, epsilon=0.0)
    wide = x.astype(np.float64)
    wide -= wide.mean(-1, keepdims=True)
    np.testing.assert_allclose(out, wide / wide.std(-1, keepdims=True), atol=1e-6)


def test_bad_calls_are_refused():
    x, out = np.zeros((2, 8), np.float32), np.empty((2, 8), np.float32)
    with pytest.raises(errors.ShapeError, match="shape of x"):
        _core.softmax(x, np.empty((2, 7), np.float32))
    with pytest.raises(errors.DTypeError, match="uint8 or float32"):
        _core.softmax(x.astype(np.int32), out)
    with pytest.raises(errors.ShapeError, match="mask"):
        _core.softmax(x, out, np.zeros((1, 8), np.float32))
    with pytest.raises(errors.DTypeError, match="mask"):
        _core.softmax(x, out, np.zeros((2, 8), bool))
    with pytest.raises(errors.DTypeError, match="lo and hi"):
        _core.softmax(x, out, lo=0.0)
    with pytest.raises(errors.DTypeError):
        _core.softmax(x, np.empty((2, 8), np.int32))
    with pytest.raises(errors.QuantizationError, match="x_scale"):
        _core.softmax(x.astype(np.uint8), out, x_scale=0.0)
    with pytest.raises(errors.ShapeError, match="gamma"):
        _core.norm(x, out, np.ones(7, np.float32))
    with pytest.raises(errors.QuantizationError, match="epsilon"):
        _core.norm(x, out, epsilon=-1.0)
    with pytest.raises(errors.LayoutError):
        _core.norm(x[:, ::2], out[:, :4])
    with pytest.raises(errors.QgemmError, match="overlaps"):
        _core.norm(x, x)
