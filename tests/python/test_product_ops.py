"""Products of floats against their reading in numpy, on every path."""

import numpy as np
import pytest

from qgemm import _core, errors, numerics


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 16, 3), (7, 65, 256), (13, 33, 257), (97, 70, 600), (0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_a_layer_of_floats(rng, isa, shape):
    m, n, k = shape
    a, w, bias = floats(rng, m, k), floats(rng, n, k), floats(rng, n)
    packed, y = _core.pack_floats(w, True), np.empty((m, n), np.float32)
    assert np.array_equal(_core.pack_floats(np.ascontiguousarray(w.T)), packed)
    want = numerics.product(a, w.T, bias)
    _core.product(a, packed, bias, y)
    assert np.array_equal(y, want)
    _core.product(a, packed, None, y, lo=-0.5, hi=0.75)
    assert np.array_equal(y, np.clip(numerics.product(a, w.T), np.float32(-0.5), np.float32(0.75)))
    q = np.empty((m, n), np.uint8)
    _core.product(a, packed, bias, q, 0.05, 120, 3, 250)
    assert np.array_equal(q, numerics.requantize(want, 0.05, 120, 3, 250))


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 2)])
@pytest.mark.parametrize("transposed", [False, True])
def test_two_activations_of_floats(rng, isa, batch, transposed):
    a, b = floats(rng, *batch, 11, 70), floats(rng, *batch, 70, 33)
    y = np.empty((*batch, 11, 33), np.float32)
    _core.matmul_floats(a, np.ascontiguousarray(b.swapaxes(-1, -2)) if transposed else b, y, b_transposed=transposed)
    assert np.array_equal(y, numerics.product(a, b))


def test_infinities_and_nans_are_those_of_the_definition(rng, isa):
    a, b = floats(rng, 9, 40), floats(rng, 40, 20)
    a[0, 3], a[1, 5], a[2, 1], a[2, 2] = np.inf, np.nan, np.inf, -np.inf
    y, q = np.empty((9, 20), np.float32), np.empty((9, 20), np.uint8)
    _core.matmul_floats(a, b, y)
    want = numerics.product(a, b)
    assert y.tobytes() == want.tobytes() and np.isnan(y[1]).all() and np.isinf(y[0]).all()
    _core.matmul_floats(a, b, q, 0.1, 7)
    assert (q[1] == 7).all() and set(q[0]) <= {0, 255}


def test_shapes_and_types_that_do_not_fit(rng):
    a, y = floats(rng, 3, 4), np.empty((3, 5), np.float32)
    packed = _core.pack_floats(floats(rng, 4, 5))
    for call, error in (
        (lambda: _core.product(a, packed[:-1], None, y), errors.ShapeError),
        (lambda: _core.product(a, packed, floats(rng, 4), y), errors.ShapeError),
        (lambda: _core.product(a.astype(np.float64), packed, None, y), errors.DTypeError),
        (lambda: _core.product(a[:2], packed, None, y), errors.ShapeError),
        (lambda: _core.matmul_floats(a, floats(rng, 5, 5), y), errors.ShapeError),
        (lambda: _core.matmul_floats(a, floats(rng, 1, 4, 5), y), errors.ShapeError),
        (lambda: _core.matmul_floats(a, floats(rng, 4, 5), np.empty((3, 5), np.int32)), errors.DTypeError),
        (lambda: _core.matmul_floats(a, floats(rng, 4, 3), a[:, :3]), errors.LayoutError),
        (lambda: _core.pack_floats(floats(rng, 4)), errors.ShapeError),
    ):
        with pytest.raises(error):
            call()
