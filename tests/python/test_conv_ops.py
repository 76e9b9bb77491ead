"""Convolution, pooling, addition, tables and quantization: the engine against ``qgemm.numerics``, byte for byte, on every
instruction set path and with 1 and 2 threads."""

from __future__ import annotations

import ctypes
import time

import numpy as np
import pytest

from qgemm import _core, errors, numerics

ONE, NO_PAD = (1, 1), (0, 0, 0, 0)


@pytest.fixture(autouse=True)
def _put_back():
    before = _core.max_threads()
    yield
    _core.force_isa(None)
    set_threads(before)


def set_threads(n: int) -> None:
    ctypes.CDLL("libgomp.so.1").omp_set_num_threads(n)
    assert _core.max_threads() == n


def paths(threads=(1, 2)):
    """Force every instruction set path and thread count in turn."""
    for isa in _core.available_isas():
        for n in threads:
            _core.force_isa(isa)
            set_threads(n)
            yield f"{isa}, {n} threads"


def out_size(n, k, stride, before, after, dilation):
    span = n + before + after - dilation * (k - 1) - 1
    return 0 if span < 0 else span // stride + 1


def out_hw(x, kernel, stride, padding, dilation):
    return tuple(out_size(x.shape[1 + i], kernel[i], stride[i], padding[i], padding[2 + i], dilation[i]) for i in (0, 1))


def same(got, want, what):
    if not np.array_equal(got, want, equal_nan=got.dtype.kind == "f"):
        bad = np.argwhere(got != want)
        at = tuple(bad[0])
        raise AssertionError(f"{what}: {len(bad)} of {got.size} differ, first at {at}: {got[at]!r}, not {want[at]!r}")


class Conv:
    """One random layer: weight, encodings, input and what should come out of it."""

    def __init__(self, rng, batch, hw, cin, cout, kernel, groups=1, bits=8, w_zero_point=False, bias_int32=False):
        lo, hi = (-8, 7) if bits == 4 else (-128, 127)
        self.weight = rng.integers(lo, hi + 1, (cout, cin // groups, *kernel), dtype=np.int8)
        self.kernel, self.groups, self.bits, self.cout = kernel, groups, bits, cout
        self.x = rng.integers(0, 256, (batch, *hw, cin), dtype=np.uint8)
        self.x_scale, self.x_zero_point = np.float32(rng.uniform(0.001, 0.1)), int(rng.integers(0, 256))
        self.w_scale = rng.uniform(0.0005, 0.05, cout).astype(np.float32)
        self.bias = rng.normal(0, 1, cout).astype(np.float32)
        self.w_zero_point = rng.integers(lo, hi + 1, cout).astype(np.int32) if w_zero_point else None
        self.bias_int32 = rng.integers(-5000, 5000, cout).astype(np.int32) if bias_int32 else None
        k = max(1, cin // groups * kernel[0] * kernel[1])
        self.out_scale = float(np.float32(self.x_scale * 0.02 * 74 * (5 if bits == 4 else 74) * np.sqrt(k) / 40 / (10 if bits == 4 else 1)))
        self.out_zero_point = int(rng.integers(0, 256))

    def pack(self, dynamic=False):
        encoding = {} if dynamic else {"x_scale": float(self.x_scale), "x_zero_point": self.x_zero_point}
        return _core.pack_conv2d(
            self.weight, self.w_scale, self.w_zero_point, self.bias, self.bias_int32, self.groups, self.bits, name="c", **encoding
        )

    def accumulate(self, stride, padding, dilation):
        zp = 0 if self.w_zero_point is None else self.w_zero_point
        return numerics.conv2d_accumulate(
            self.x, self.weight, self.x_zero_point, zp, self.bias_int32, stride, padding, dilation, self.groups
        )

    def check(self, stride=ONE, padding=NO_PAD, dilation=ONE, threads=(1, 2), kinds=("u8", "s8", "f32", "s32"), dynamic=False):
        shape = (self.x.shape[0], *out_hw(self.x, self.kernel, stride, padding, dilation), self.cout)
        acc = self.accumulate(stride, padding, dilation)
        assert acc.shape == shape
        y = numerics.to_float(acc, numerics.output_scale(self.x_scale, self.w_scale), self.bias)
        zp = self.out_zero_point
        q = numerics.requantize(y, self.out_scale, zp, min(zp, 200), 250)
        want = {
            "u8": (np.uint8, q.astype(np.uint8), dict(out_scale=self.out_scale, out_zero_point=zp, lo=min(zp, 200), hi=250)),
            "s8": (
                np.int8,
                (q - 128).astype(np.int8),
                dict(out_scale=self.out_scale, out_zero_point=zp - 128, lo=min(zp, 200) - 128, hi=122),
            ),
            "f32": (np.float32, np.clip(y, np.float32(-3), np.float32(6)), dict(lo=-3.0, hi=6.0)),
            "s32": (np.int32, acc, {}),
        }
        packed = self.pack(dynamic)
        override = dict(x_scale=float(self.x_scale), x_zero_point=self.x_zero_point) if dynamic else {}
        for path in paths(threads):
            for kind in kinds:
                dtype, expected, options = want[kind]
                out = np.full(shape, 77, dtype)
                _core.conv2d(self.x, packed, out, stride, padding, dilation, **options, **override)
                same(out, expected, f"{kind} on {path}")


# Geometry, and why: name -> (batch, hw, cin, cout, kernel, groups), (stride, padding, dilation).
GEOMETRIES = {
    "1x1 in place, K tail of 1": ((2, (5, 7), 17, 33, (1, 1), 1), (ONE, NO_PAD, ONE)),
    "1x1 one pixel": ((1, (1, 1), 64, 64, (1, 1), 1), (ONE, NO_PAD, ONE)),
    "1x1 with stride 2": ((2, (7, 8), 12, 20, (1, 1), 1), ((2, 2), NO_PAD, ONE)),
    "1x1 that pads": ((1, (3, 3), 5, 6, (1, 1), 1), (ONE, (1, 2, 0, 1), ONE)),
    "3x3 same, panels 64 + 16": ((1, (9, 11), 32, 70, (3, 3), 1), (ONE, (1, 1, 1, 1), ONE)),
    "3x3 stride 2, uneven padding": ((2, (8, 9), 24, 16, (3, 3), 1), ((2, 2), (0, 0, 1, 1), ONE)),
    "3x3 dilation 2": ((1, (9, 9), 20, 24, (3, 3), 1), (ONE, (2, 2, 2, 2), (2, 2))),
    "3x3 padding beyond the kernel": ((1, (2, 3), 18, 5, (3, 3), 1), (ONE, (5, 4, 6, 3), ONE)),
    "rows and columns unlike": ((1, (6, 10), 19, 48, (2, 5), 1), ((2, 3), (1, 0, 2, 4), (3, 2))),
    "first layer: 7x7 of 3 channels": ((1, (23, 23), 3, 64, (7, 7), 1), ((2, 2), (3, 3, 3, 3), ONE)),
    "folded row, kernel wider than the image": ((1, (4, 2), 3, 16, (3, 5), 1), (ONE, (1, 2, 1, 2), ONE)),
    "folded row, dilated": ((1, (8, 9), 4, 17, (3, 3), 1), (ONE, (2, 2, 2, 2), (1, 2))),
    "folded row of 16 channels": ((2, (6, 6), 16, 32, (3, 3), 1), (ONE, (1, 1, 1, 1), ONE)),
    "one channel": ((2, (8, 8), 1, 6, (5, 5), 1), (ONE, (2, 2, 2, 2), ONE)),
    "Conv1d: KH = 1": ((2, (1, 50), 18, 31, (1, 7), 1), ((1, 2), (0, 3, 0, 3), ONE)),
    "vertical only: KW = 1": ((1, (20, 3), 6, 10, (5, 1), 1), ((3, 1), (2, 0, 2, 0), ONE)),
    "groups of 16 channels": ((1, (7, 7), 64, 64, (3, 3), 4), (ONE, (1, 1, 1, 1), ONE)),
    "groups, ragged": ((2, (5, 6), 15, 21, (3, 3), 3), ((2, 1), (1, 1, 1, 1), ONE)),
    "grouped 1x1": ((1, (5, 5), 24, 12, (1, 1), 3), (ONE, NO_PAD, ONE)),
    "one channel in, two out a group": ((1, (6, 6), 10, 20, (3, 3), 10), (ONE, (1, 1, 1, 1), ONE)),
    "depthwise 3x3": ((2, (9, 10), 64, 64, (3, 3), 64), (ONE, (1, 1, 1, 1), ONE)),
    "depthwise 3x3 stride 2, channel tail": ((1, (15, 14), 96, 96, (3, 3), 96), ((2, 2), (1, 1, 1, 1), ONE)),
    "depthwise of 2 channels": ((1, (5, 5), 2, 2, (3, 3), 2), (ONE, (1, 1, 1, 1), ONE)),
    "depthwise 5x5, 65 channels": ((1, (9, 9), 65, 65, (5, 5), 65), ((2, 2), (2, 2, 2, 2), ONE)),
    "depthwise 7x7 dilated": ((1, (20, 20), 33, 33, (7, 7), 33), (ONE, (3, 3, 3, 3), (1, 2))),
    "depthwise 1x3": ((1, (1, 33), 40, 40, (1, 3), 40), (ONE, (0, 1, 0, 1), ONE)),
    "depthwise, no pixel clear of the border": ((1, (2, 2), 31, 31, (5, 5), 31), (ONE, (3, 3, 3, 3), ONE)),
    "depthwise 2x2": ((1, (6, 7), 129, 129, (2, 2), 129), ((2, 2), (0, 1, 0, 0), ONE)),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_conv2d_geometries(rng, name):
    layer, where = GEOMETRIES[name]
    Conv(rng, *layer).check(*where)


@pytest.mark.parametrize("name", [n for n in GEOMETRIES if not n.startswith("depthwise")][::3] + ["depthwise 3x3"])
def test_conv2d_weight_zero_points_int4_and_int32_bias(rng, name):
    layer, where = GEOMETRIES[name]
    Conv(rng, *layer, w_zero_point=True).check(*where, kinds=("u8", "s32"))
    Conv(rng, *layer, bits=4, bias_int32=True).check(*where, kinds=("u8", "s32"))
    Conv(rng, *layer, bits=4, w_zero_point=True, bias_int32=True).check(*where, kinds=("u8", "s32"))


@pytest.mark.parametrize("name", ["depthwise 3x3 stride 2, channel tail", "depthwise 7x7 dilated", "depthwise of 2 channels"])
def test_depthwise_weight_zero_points(rng, name):
    layer, where = GEOMETRIES[name]
    Conv(rng, *layer, w_zero_point=True, bias_int32=True).check(*where)


@pytest.mark.parametrize("name", list(GEOMETRIES)[::4])
def test_conv2d_dynamic_encoding(rng, name):
    layer, where = GEOMETRIES[name]
    Conv(rng, *layer).check(*where, dynamic=True)


@pytest.mark.parametrize(
    "layer,where",
    [
        ((0, (5, 5), 8, 8, (3, 3), 1), (ONE, NO_PAD, ONE)),
        ((0, (5, 5), 8, 8, (3, 3), 8), (ONE, NO_PAD, ONE)),
        ((2, (5, 5), 8, 0, (3, 3), 1), (ONE, NO_PAD, ONE)),
        ((1, (0, 4), 8, 4, (3, 3), 1), (ONE, (2, 1, 2, 1), ONE)),
        ((1, (4, 0), 8, 8, (3, 3), 8), (ONE, (1, 2, 1, 2), ONE)),
        ((1, (4, 4), 0, 5, (3, 3), 1), (ONE, (1, 1, 1, 1), ONE)),
    ],
    ids=["no image", "no image, depthwise", "no output channel", "no row but padding", "no column but padding", "no input channel"],
)
def test_conv2d_of_nothing(rng, layer, where):
    Conv(rng, *layer).check(*where)


def test_conv2d_window_that_does_not_fit_gives_nothing(rng):
    c = Conv(rng, 1, (2, 9), 8, 4, (3, 3))
    _core.conv2d(c.x, c.pack(), np.empty((1, 0, 7, 4), np.uint8), ONE, NO_PAD, ONE)


def test_conv2d_extreme_values_do_not_saturate():
    # 255 * -128 twice is beyond 16 bits: vpmaddubsw would clip it.
    for groups, cin in ((1, 32), (64, 64)):
        x = np.full((1, 4, 4, cin), 255, np.uint8)
        for value in (-128, 127):
            w = np.full((64, cin // groups, 3, 3), value, np.int8)
            packed = _core.pack_conv2d(w, np.ones(1, np.float32), groups=groups)
            want = numerics.conv2d_accumulate(x, w, padding=(1, 1, 1, 1), groups=groups)
            for path in paths():
                out = np.empty((1, 4, 4, 64), np.int32)
                _core.conv2d(x, packed, out, ONE, (1, 1, 1, 1), ONE)
                same(out, want, path)


def test_conv2d_large_enough_for_two_threads(rng):
    for layer in (
        (1, (40, 40), 64, 96, (3, 3), 1),
        (1, (28, 28), 256, 64, (1, 1), 1),
        (1, (7, 7), 256, 300, (3, 3), 1),
        (2, (60, 60), 144, 144, (3, 3), 144),
        (1, (64, 64), 3, 32, (3, 3), 1),
        (1, (20, 20), 128, 128, (3, 3), 4),
    ):
        k = layer[4][0] // 2
        Conv(rng, *layer).check(ONE, (k, k, k, k), ONE, threads=(1, 2, 3), kinds=("u8",))


def random_case(rng):
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    kind = rng.integers(0, 5)
    kernel = tuple(int(k) for k in rng.choice([1, 1, 2, 3, 3, 5], 2))
    cin, cout = (int(c) for c in rng.choice([1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 33], 2))
    if kind == 0:
        groups = cin = cout = int(rng.choice([2, 3, 15, 16, 31, 33, 64, 65, 67]))
    elif kind == 1:
        kernel = (1, 1)
    if kind != 0:
        cin, cout = cin * groups, cout * groups
    hw = tuple(int(v) for v in rng.integers(1, 10, 2))
    layer = (int(rng.integers(1, 3)), hw, cin, cout, kernel, groups)
    stride = tuple(int(v) for v in rng.choice([1, 1, 2, 3], 2))
    padding = tuple(int(v) for v in rng.choice([0, 0, 1, 2, 4], 4))
    dilation = tuple(int(v) for v in rng.choice([1, 1, 2], 2))
    while min(out_hw(np.empty((1, *hw, 1)), kernel, stride, padding, dilation)) == 0:
        padding = tuple(p + 1 for p in padding)
    return layer, (stride, padding, dilation), dict(bits=int(rng.choice([8, 8, 4])), w_zero_point=rng.random() < 0.2)


def sweep(rng, seconds):
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        layer, where, options = random_case(rng)
        kinds = (("u8", "s8", "f32", "s32")[count % 4],)
        try:
            Conv(rng, *layer, **options).check(*where, kinds=kinds)
        except AssertionError as e:
            raise AssertionError(f"case {count}: {layer} {where} {options}: {e}") from None
        count += 1
    return count


def test_conv2d_random_geometries(rng):
    assert sweep(rng, 12) > 200


@pytest.mark.nightly
def test_conv2d_random_geometries_for_long(rng):
    sweep(rng, 600)


# ---- pooling ------------------------------------------------------------------------------------------------------------

POOLS = {
    "2x2 stride 2": ((2, 8, 8, 64), (2, 2), (2, 2), NO_PAD, ONE),
    "3x3 stride 2 padded": ((1, 11, 12, 33), (3, 3), (2, 2), (1, 1, 1, 1), ONE),
    "ceil mode: more padding below and right": ((1, 7, 7, 17), (3, 3), (2, 2), (0, 0, 1, 1), ONE),
    "global": ((3, 7, 7, 130), (7, 7), (1, 1), NO_PAD, ONE),
    "global over more than 257 positions": ((1, 20, 23, 31), (20, 23), (1, 1), NO_PAD, ONE),
    "1x1": ((1, 3, 3, 5), (1, 1), (1, 1), NO_PAD, ONE),
    "one channel": ((1, 9, 9, 1), (3, 2), (1, 2), (1, 0, 1, 1), ONE),
    "wide, for two threads": ((2, 40, 40, 96), (3, 3), (1, 1), (1, 1, 1, 1), ONE),
    "no image": ((0, 5, 5, 8), (2, 2), (1, 1), NO_PAD, ONE),
    "no channel": ((1, 5, 5, 0), (2, 2), (1, 1), NO_PAD, ONE),
}


@pytest.mark.parametrize("name", [*POOLS, "dilated"])
def test_max_pool2d(rng, name):
    shape, kernel, stride, padding, dilation = POOLS.get(name, ((1, 9, 9, 70), (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)))
    x = rng.integers(0, 256, shape, dtype=np.uint8)
    want = numerics.max_pool2d(x, kernel, stride, padding, dilation)
    for path in paths():
        out = np.full(want.shape, 77, np.uint8)
        _core.max_pool2d(x, out, kernel, stride, padding, dilation)
        same(out, want, path)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_avg_pool2d(rng, name, count_include_pad):
    shape, kernel, stride, padding, _ = POOLS[name]
    x = rng.integers(0, 256, shape, dtype=np.uint8)
    x_scale, x_zp, out_scale, out_zp = np.float32(0.037), 131, 0.011, 90
    y = numerics.avg_pool2d(x, kernel, stride, padding, count_include_pad, x_scale, x_zp)
    q = numerics.requantize(y, out_scale, out_zp, 20, 240).astype(np.uint8)
    for path in paths():
        out = np.full(q.shape, 77, np.uint8)
        _core.avg_pool2d(x, out, kernel, stride, padding, count_include_pad, float(x_scale), x_zp, out_scale, out_zp, 20, 240)
        same(out, q, path)
        real = np.full(q.shape, 77, np.float32)
        _core.avg_pool2d(x, real, kernel, stride, padding, count_include_pad, float(x_scale), x_zp)
        same(real, y, path)


def test_windows_with_padding_only(rng):
    x = rng.integers(1, 256, (1, 2, 2, 20), dtype=np.uint8)
    for path in paths():
        out = np.full((1, 5, 5, 20), 77, np.uint8)
        _core.max_pool2d(x, out, (2, 2), ONE, (2, 2, 2, 2))
        assert not out[0, 0].any() and out[0, 2].any(), path
        _core.avg_pool2d(x, out, (2, 2), ONE, (2, 2, 2, 2), False, 0.5, 3, 0.5, 9)
        assert (out[0, 0] == 9).all(), path


# ---- elementwise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 63, 64, 65, 127, 300_007])
def test_add(rng, n):
    a, b = rng.integers(0, 256, (2, n), dtype=np.uint8)
    for _ in range(3):
        sa, sb, so = (float(s) for s in rng.uniform(0.001, 0.1, 3).astype(np.float32))
        za, zb, zo = (int(z) for z in rng.integers(0, 256, 3))
        want = numerics.add(a, b, sa, za, sb, zb, so, zo, 3, 251).astype(np.uint8)
        for path in paths():
            out = np.full(n, 77, np.uint8)
            _core.add(a, b, out, sa, za, sb, zb, so, zo, 3, 251)
            same(out, want, path)


def test_add_all_pairs_and_far_scales():
    a, b = (v.astype(np.uint8).ravel() for v in np.meshgrid(np.arange(256), np.arange(256)))
    for sa, sb, so in ((0.02, 0.02, 0.04), (1e-7, 3.0, 0.01), (1e30, 1e30, 1e-6), (1e-30, 1e-30, 1e30)):
        want = numerics.add(a, b, sa, 128, sb, 0, so, 255).astype(np.uint8)
        for path in paths((1,)):
            out = np.empty_like(a)
            _core.add(a, b, out, sa, 128, sb, 0, so, 255)
            same(out, want, path)


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 256, 200_003])
def test_lut(rng, n):
    x, table = rng.integers(0, 256, n, dtype=np.uint8), rng.integers(0, 256, 256, dtype=np.uint8)
    if n == 256:
        x = np.arange(256, dtype=np.uint8)
    for path in paths():
        out = np.full(n, 77, np.uint8)
        _core.lut(x, table, out)
        same(out, table[x], path)


# ---- quantization -------------------------------------------------------------------------------------------------------

SPECIAL = np.array([0, -0.0, 1e-40, -1e-40, 1e30, -1e30, np.inf, -np.inf, np.nan, 0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
GRIDS = {np.uint8: (0, 255), np.int8: (-128, 127), np.uint16: (0, 65535), np.int16: (-32768, 32767)}


def reals(rng, shape):
    x = (rng.normal(0, 1, shape) * 10.0 ** rng.integers(-3, 3, shape)).astype(np.float32)
    flat = x.reshape(-1)
    if flat.size:
        at = rng.integers(0, flat.size, min(flat.size, 40))
        flat[at] = rng.choice(SPECIAL, at.size)
    return x


@pytest.mark.parametrize("dtype", GRIDS)
@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 15, 16, 17, 1000, 150_001])
def test_quantize_per_tensor(rng, dtype, n):
    lo, hi = GRIDS[dtype]
    x = reals(rng, n)
    for qmin, qmax in ((lo, hi), (lo + 1, hi)):
        scale, zp = np.array([rng.uniform(1e-4, 0.1)], np.float32), np.array([rng.integers(qmin, qmax + 1)], np.int32)
        want = numerics.quantize(x, scale[0], zp[0], qmin, qmax).astype(dtype)
        back = numerics.dequantize(want, scale[0], zp[0])
        for path in paths():
            q = np.full(n, 77, dtype)
            _core.quantize(x, scale, zp, qmin, qmax, q)
            same(q, want, path)
            y = np.full(n, 77, np.float32)
            _core.dequantize(q, scale, zp, y)
            same(y, back, path)


def test_quantize_ties_go_to_even():
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5], np.float32)
    for path in paths((1,)):
        q = np.empty(6, np.int8)
        _core.quantize(x, np.ones(1, np.float32), np.zeros(1, np.int32), -128, 127, q)
        assert q.tolist() == [0, 2, 2, 0, -2, -2], path


@pytest.mark.parametrize("shape,axis", [((5, 3, 4), 0), ((5, 3, 4), 1), ((700, 3), -1), ((2, 9, 33), 2), ((3, 0), 0), ((0, 3), 1)])
@pytest.mark.parametrize("dtype", GRIDS)
def test_quantize_per_channel(rng, shape, axis, dtype):
    lo, hi = GRIDS[dtype]
    x, c = reals(rng, shape), shape[axis]
    scale, zp = rng.uniform(1e-4, 0.1, c).astype(np.float32), rng.integers(lo, hi + 1, c).astype(np.int32)
    want = numerics.quantize(x, scale, zp, lo, hi, axis % len(shape)).astype(dtype)
    back = numerics.dequantize(want, scale, zp, axis % len(shape))
    for path in paths():
        q, y = np.full(shape, 77, dtype), np.full(shape, 77, np.float32)
        _core.quantize(x, scale, zp, lo, hi, q, axis)
        same(q, want, path)
        _core.dequantize(q, scale, zp, y, axis)
        same(y, back, path)


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (7, 64), (0, 5), (4, 0), (400, 300)])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("per_row", [True, False])
def test_quantize_dynamic(rng, shape, symmetric, per_row):
    x = rng.normal(0.3, 1, shape).astype(np.float32)
    if shape[0] > 2 and shape[1]:
        x[1] = 0
        x[2] = np.abs(x[2])
    if shape == (7, 64):
        x[3] *= np.float32(1e-38)  # its scale would be below the smallest normal float
        x[4] = np.where(x[4] > 0, np.float32(3e38), np.float32(-3e38))  # its range is wider than fp32's largest number
    scale, zp = numerics.dynamic_encoding(x, per_row, symmetric)
    rows = (slice(None), None) if per_row else (0,)
    with np.errstate(all="ignore"):
        want = np.clip(np.rint(x * (np.float32(1) / scale[rows])) + zp[rows], 0, 255).astype(np.uint8)
    for path in paths():
        q, s, z = np.full(shape, 77, np.uint8), np.full(scale.shape, 77, np.float32), np.full(scale.shape, 77, np.int32)
        _core.quantize_dynamic(x, q, s, z, per_row, symmetric)
        same(s, scale, path)
        same(z, zp, path)
        same(q, want, path)


def test_quantize_dynamic_of_strided_rows(rng):
    wide = rng.normal(size=(5, 40)).astype(np.float32)
    q, s, z = np.empty((5, 30), np.uint8), np.empty(5, np.float32), np.empty(5, np.int32)
    q2, s2, z2 = q.copy(), s.copy(), z.copy()
    _core.quantize_dynamic(wide[:, :30], q, s, z, True)
    _core.quantize_dynamic(wide[:, :30].copy(), q2, s2, z2, True)
    assert np.array_equal(q, q2) and np.array_equal(s, s2) and np.array_equal(z, z2)


@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_quantize_dynamic_refuses_what_is_not_finite(per_row, bad):
    x = np.zeros((4, 9), np.float32)
    x[2, 8] = bad
    n = 4 if per_row else 1
    for _ in paths():
        with pytest.raises(errors.QuantizationError, match="row 2"):
            _core.quantize_dynamic(x, np.empty((4, 9), np.uint8), np.empty(n, np.float32), np.empty(n, np.int32), per_row)


@pytest.mark.parametrize("shape", [(0,), (1,), (2,), (5,), (3, 7), (2, 3, 8), (3, 0), (0, 3)])
def test_int4_storage(rng, shape):
    for dtype, lo in ((np.int8, -8), (np.uint8, 0)):
        v = rng.integers(lo, lo + 16, shape).astype(dtype)
        packed = _core.pack_int4(v)
        assert packed.shape == (*shape[:-1], (shape[-1] + 1) // 2)
        assert np.array_equal(packed, numerics.pack_int4(v))
        back = _core.unpack_int4(packed, shape[-1], dtype is np.int8)
        assert back.dtype == dtype and np.array_equal(back, v)


# ---- what is refused ------------------------------------------------------------------------------------------------------


class TestRefusals:
    x = np.zeros((1, 5, 6, 8), np.uint8)
    w = np.zeros((4, 8, 3, 3), np.int8)
    one = np.ones(1, np.float32)

    @property
    def packed(self):
        return _core.pack_conv2d(self.w, self.one, x_scale=0.5, x_zero_point=3)

    def conv(self, **changes):
        a = dict(x=self.x, packed=self.packed, out=np.zeros((1, 3, 4, 4), np.uint8), stride=ONE, padding=NO_PAD, dilation=ONE)
        a.update(changes)
        _core.conv2d(**a)

    @pytest.mark.parametrize(
        "changes,error,says",
        [
            (dict(x=np.zeros((1, 5, 6, 8), np.int8)), errors.DTypeError, "uint8"),
            (dict(x=np.zeros((5, 6, 8), np.uint8)), errors.ShapeError, "NHWC"),
            (dict(x=np.zeros((1, 5, 6, 9), np.uint8)), errors.ShapeError, "9 channels but the weight takes 8"),
            (dict(x=np.zeros((1, 8, 5, 6), np.uint8).transpose(0, 2, 3, 1)), errors.LayoutError, "contiguous"),
            (dict(out=np.zeros((1, 4, 3, 4), np.uint8)), errors.ShapeError, r"\(1, 3, 4, 4\)"),
            (dict(out=np.zeros((1, 3, 4, 4), np.int64)), errors.DTypeError, "int64"),
            (dict(out=np.zeros((4, 1, 3, 4), np.uint8).transpose(1, 2, 3, 0)), errors.LayoutError, "contiguous"),
            (dict(stride=(0, 1)), errors.ShapeError, "stride"),
            (dict(dilation=(1, 0)), errors.ShapeError, "dilation"),
            (dict(padding=(0, -1, 0, 0)), errors.ShapeError, "left"),
            (dict(out_scale=0.0), errors.QuantizationError, "out_scale"),
            (dict(out_scale=float("nan")), errors.QuantizationError, "out_scale"),
            (dict(out_zero_point=256), errors.QuantizationError, "out_zero_point"),
            (dict(lo=-1), errors.QuantizationError, "lo"),
            (dict(lo=9, hi=3), errors.QuantizationError, "lo"),
            (dict(x_scale=-1.0), errors.QuantizationError, "x_scale"),
            (dict(x_zero_point=300), errors.QuantizationError, "x_zero_point"),
            (dict(x_zero_point=4), errors.PackedWeightError, "dynamic"),
            (dict(packed=np.zeros(500, np.uint8)), errors.PackedWeightError, "pack"),
        ],
    )
    def test_conv2d(self, changes, error, says):
        before = self.x.copy()
        with pytest.raises(error, match=says):
            self.conv(**changes)
        assert np.array_equal(self.x, before)

    def test_conv2d_weight_of_a_linear_layer(self):
        with pytest.raises(errors.PackedWeightError, match="pack_conv2d"):
            self.conv(packed=_core.pack_linear(np.zeros((4, 8), np.int8), self.one))

    def test_conv2d_out_over_its_input(self):
        memory = np.zeros(1000, np.uint8)
        with pytest.raises(errors.LayoutError, match="overlaps"):
            self.conv(x=memory[:240].reshape(1, 5, 6, 8), out=memory[200:248].reshape(1, 3, 4, 4))

    def test_read_only_output(self):
        out = np.zeros((1, 3, 4, 4), np.uint8)
        out.flags.writeable = False
        with pytest.raises(errors.LayoutError, match="read-only"):
            self.conv(out=out)

    def test_pools(self):
        out = np.zeros((1, 4, 5, 8), np.uint8)
        with pytest.raises(errors.ShapeError, match=r"\(1, 4, 5, 8\)"):
            _core.max_pool2d(self.x, out[:, :3], (2, 2), ONE, NO_PAD)
        with pytest.raises(errors.ShapeError, match="kernel"):
            _core.max_pool2d(self.x, out, (0, 2), ONE, NO_PAD)
        with pytest.raises(errors.DTypeError):
            _core.max_pool2d(self.x, out.astype(np.int8), (2, 2), ONE, NO_PAD)
        with pytest.raises(errors.DTypeError, match="int32"):
            _core.avg_pool2d(self.x, out.astype(np.int32), (2, 2), ONE, NO_PAD, True, 1.0, 0)
        with pytest.raises(errors.QuantizationError, match="x_scale"):
            _core.avg_pool2d(self.x, out, (2, 2), ONE, NO_PAD, True, float("inf"), 0)

    def test_elementwise(self):
        a, b = np.zeros(5, np.uint8), np.zeros(5, np.uint8)
        with pytest.raises(errors.ShapeError, match="b must have the shape of a"):
            _core.add(a, b[:4], np.zeros(5, np.uint8), 1, 0, 1, 0, 1, 0)
        with pytest.raises(errors.LayoutError, match="overlaps a"):
            _core.add(a, b, a, 1, 0, 1, 0, 1, 0)
        with pytest.raises(errors.QuantizationError, match="b_zero_point"):
            _core.add(a, b, np.zeros(5, np.uint8), 1, 0, 1, -1, 1, 0)
        with pytest.raises(errors.ShapeError, match="256"):
            _core.lut(a, np.zeros(255, np.uint8), b)

    @pytest.mark.parametrize(
        "changes,error,says",
        [
            (dict(x=np.zeros(4)), errors.DTypeError, "float32, got float64"),
            (dict(scale=np.zeros(1, np.float32)), errors.QuantizationError, "scale must be finite and > 0"),
            (dict(scale=np.full(1, np.nan, np.float32)), errors.QuantizationError, "nan"),
            (dict(scale=np.full(1, 1e-40, np.float32)), errors.QuantizationError, "reciprocal"),
            (dict(scale=np.ones(3, np.float32), zero_point=np.zeros(3, np.int32)), errors.ShapeError, "3 elements"),
            (dict(zero_point=np.full(1, 300, np.int32)), errors.QuantizationError, "zero_point"),
            (dict(zero_point=np.zeros(1, np.int64)), errors.DTypeError, "int32"),
            (dict(qmin=-1), errors.QuantizationError, "qmin"),
            (dict(qmin=9, qmax=3), errors.QuantizationError, "qmin"),
            (dict(out=np.zeros(4, np.int32)), errors.DTypeError, "uint16"),
            (dict(out=np.zeros(5, np.uint8)), errors.ShapeError, "shape"),
            (dict(scale=np.ones(4, np.float32), zero_point=np.zeros(4, np.int32), axis=1), errors.ShapeError, "axis 1"),
        ],
    )
    def test_quantize(self, changes, error, says):
        a = dict(x=np.zeros(4, np.float32), scale=self.one, zero_point=np.zeros(1, np.int32), qmin=0, qmax=255, out=np.zeros(4, np.uint8))
        a.update(changes)
        with pytest.raises(error, match=says):
            _core.quantize(**a)

    def test_int4(self):
        with pytest.raises(errors.QuantizationError, match="element 1"):
            _core.pack_int4(np.array([7, 8], np.int8))
        with pytest.raises(errors.QuantizationError, match="0..15"):
            _core.pack_int4(np.array([16], np.uint8))
        with pytest.raises(errors.DTypeError):
            _core.pack_int4(np.zeros(4, np.int32))
        with pytest.raises(errors.ShapeError, match="length 5"):
            _core.unpack_int4(np.zeros(2, np.uint8), 5, True)
