"""torch.ops.qgemm.*: registered as PyTorch asks (opcheck), the arithmetic of qgemm.numerics bit for bit, typed errors."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import qgemm.ops  # noqa: E402
from qgemm import _core, numerics  # noqa: E402
from qgemm.errors import (  # noqa: E402
    DeviceError,
    DTypeError,
    LayoutError,
    PackedWeightError,
    QuantizationError,
    ShapeError,
)

OPS = torch.ops.qgemm
U8, S8, S32, F32 = torch.uint8, torch.int8, torch.int32, torch.float32
X_SCALE, X_ZERO = 0.05, 117


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def t(a):
    return torch.from_numpy(np.ascontiguousarray(a))


def codes(rng, *shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


def linear_weight(rng, n, k, bits=8, group_size=0, zero_point=False):
    lo, hi = numerics.grid(bits, True)
    w = rng.integers(lo, hi + 1, (n, k), dtype=np.int8)
    groups = -(-k // group_size) if group_size else 1
    scale = rng.uniform(0.001, 0.02, (n, groups) if group_size else n).astype(np.float32)
    zero = rng.integers(-3, 4, n, dtype=np.int32) if zero_point else None
    return w, scale, zero, rng.normal(size=n).astype(np.float32)


def conv_weight(rng, cout, cin_per_group, kh, kw):
    w = rng.integers(-128, 128, (cout, cin_per_group, kh, kw), dtype=np.int8)
    return w, rng.uniform(0.001, 0.02, cout).astype(np.float32), rng.normal(size=cout).astype(np.float32)


def packed_linear(w, scale, zero, bias, static=True, **kw):
    encoding = {"x_scale": X_SCALE, "x_zero_point": X_ZERO} if static else {}
    return t(_core.pack_linear(w, scale, zero_point=zero, bias=bias, **encoding, **kw))


def packed_conv(w, scale, bias, groups=1, static=True):
    encoding = {"x_scale": X_SCALE, "x_zero_point": X_ZERO} if static else {}
    return t(_core.pack_conv2d(w, scale, bias=bias, groups=groups, **encoding))


def nchw(a):
    """An NHWC array as a channels_last tensor of logical NCHW, no copy."""
    return torch.from_numpy(a).permute(0, 3, 1, 2)


# ---- registration -----------------------------------------------------------------------------------------------------------------


def samples():
    """(name, arguments) for every operator: each layout, output type and option that changes a shape function's answer."""
    rng = np.random.default_rng(7)
    x, q = t(rng.normal(size=(5, 12)).astype(np.float32)), t(codes(rng, 5, 12))
    scale, zero = torch.tensor([0.04]), torch.tensor([120], dtype=S32)
    channel_scale, channel_zero = torch.rand(12) + 0.01, torch.zeros(12, dtype=S32)
    image = t(rng.normal(size=(2, 4, 7, 6)).astype(np.float32))
    last = image.to(memory_format=torch.channels_last)
    yield "quantize", (x, scale, zero, 0, 255, U8)
    yield "quantize", (x, channel_scale, channel_zero, -128, 127, S8, 1)
    yield "quantize", (last, scale, zero, 0, 255, U8)
    yield "quantize", (x.t(), channel_scale, channel_zero, -128, 127, S8, 0)
    yield "quantize", (x, scale, zero, 0, 65535, torch.uint16)
    yield "quantize", (x, scale, zero, -32768, 32767, torch.int16)
    yield "dequantize", (q, scale, zero)
    yield "dequantize", (q.t(), channel_scale, channel_zero, 0)
    yield "quantize_dynamic", (x,)
    yield "quantize_dynamic", (last, False, True)

    w = linear_weight(rng, 9, 12)
    for dtype in (U8, S8, S32, F32):
        yield "linear", (q, packed_linear(*w), 9, dtype, 0.1, 3)
    yield "linear", (q.reshape(5, 1, 12), packed_linear(*w), 9, U8, 0.1, 3, 3.0, 200.0)
    for shape in ((5, 12), (12,), (0, 12), (2, 3, 12)):
        yield "linear_dynamic", (torch.randn(shape), packed_linear(*w, static=False), 9)
    yield "linear_dynamic", (x, packed_linear(*w, static=False), 9, False, True, 0.0, 6.0)

    yield "linear_quantized", (*OPS.quantize_dynamic(x), packed_linear(*w, static=False), 9)
    yield "linear_quantized", (*OPS.quantize_dynamic(x[0]), packed_linear(*w, static=False), 9, 0.0, 6.0)
    yield "linear_quantized", (*OPS.quantize_dynamic(x.view(5, 1, 12), False), packed_linear(*w, static=False), 9)
    wide = t(rng.integers(0, 65536, (5, 2, 12)).astype(np.uint16))
    for dtype in (F32, U8, torch.uint16):
        yield "linear16", (wide, packed_linear(*w, static=False), 9, 1e-4, 30000, dtype, 0.1, 3)
    left, right = t(codes(rng, 3, 1, 6, 12)), t(codes(rng, 2, 5, 12).view(np.int8))
    for dtype in (U8, S8, S32, F32):
        yield "matmul", (left, right.mT, 0.02, 117, 0.03, -4, dtype, 0.7, 3)
    yield "matmul", (left[0, 0], right[0].t().contiguous(), 0.02, 117, 0.03, -4, U8, 0.7, 3, 3.0, 200.0)

    cw = conv_weight(rng, 8, 4, 3, 3)
    window = [3, 3], [2, 1], [1, 1, 1, 1], [1, 1]
    pixels = nchw(codes(rng, 2, 7, 6, 4))
    yield "conv2d", (pixels, packed_conv(*cw), 8, *window, U8, 0.1, 3)
    yield "conv2d", (pixels.contiguous(), packed_conv(*cw), 8, *window, F32)
    yield "conv2d_dynamic", (image, packed_conv(*cw, static=False), 8, *window)
    yield "conv2d_dynamic", (last, packed_conv(*cw, static=False), 8, *window, False, True)
    for channels_last in (False, True):  # one output pixel: every layout is contiguous
        yield "conv2d_dynamic", (image, packed_conv(*cw, static=False), 8, [3, 3], [9, 9], [0] * 4, [1, 1], False, channels_last)
    lw = conv_weight(rng, 8, 4, 1, 3)
    line = [3], [2], [1, 1], [1]
    yield "conv1d", (t(codes(rng, 2, 4, 9)), packed_conv(*lw), 8, *line, U8, 0.1, 3)
    yield "conv1d_dynamic", (torch.randn(2, 4, 9), packed_conv(*lw, static=False), 8, *line)
    yield "conv1d_dynamic", (torch.randn(2, 4, 9), packed_conv(*lw, static=False), 8, *line, True, True)

    up = (_core.pack_conv_transpose2d, rng.integers(-128, 128, (4, 8, 3, 3), dtype=np.int8))
    grow = ([3, 3], [2, 2], [1, 1, 0, 1], [1, 0], [1, 1])
    static = {"x_scale": X_SCALE, "x_zero_point": X_ZERO}
    for given in (pixels, pixels.contiguous()):
        yield "conv_transpose2d", (given, t(up[0](up[1], cw[1], stride=(2, 2), **static)), 8, *grow, U8, 0.1, 3)
    for given, channels_last in ((image, False), (last, True)):
        yield "conv_transpose2d_dynamic", (given, t(up[0](up[1], cw[1], stride=(2, 2))), 8, *grow, False, channels_last)
    up1 = rng.integers(-128, 128, (4, 8, 1, 3), dtype=np.int8)
    grow1 = ([3], [2], [1, 0], [1], [1])
    yield "conv_transpose1d", (t(codes(rng, 2, 4, 9)), t(up[0](up1, cw[1], stride=(1, 2), **static)), 8, *grow1, U8, 0.1, 3)
    for channels_last in (False, True):
        yield "conv_transpose1d_dynamic", (torch.randn(2, 4, 9), t(up[0](up1, cw[1], stride=(1, 2))), 8, *grow1, False, channels_last)
    vw, cube = rng.integers(-128, 128, (8, 4, 2, 3, 3), dtype=np.int8), ([2, 3, 3], [1, 2, 1], [0, 1, 1, 1, 1, 1], [1, 1, 1])
    volume = t(codes(rng, 2, 4, 5, 6, 7))
    for given in (volume, volume.to(memory_format=torch.channels_last_3d)):
        yield "conv3d", (given, t(_core.pack_conv3d(vw, cw[1], **static)), 8, *cube, U8, 0.1, 3)
    for channels_last in (False, True):
        yield "conv3d_dynamic", (torch.randn(2, 4, 5, 6, 7), t(_core.pack_conv3d(vw, cw[1])), 8, *cube, False, channels_last)
    yield "max_pool2d", (pixels, [3, 3], [2, 2], [1, 1, 1, 1])
    yield "avg_pool2d", (pixels, [2, 2], [2, 2], [0, 0, 0, 0], True, X_SCALE, X_ZERO, U8, 0.05, 110)
    yield "avg_pool2d", (pixels, [7, 6], [1, 1], [0, 0, 0, 0], False, X_SCALE, X_ZERO, F32)
    yield "add", (pixels, nchw(codes(rng, 2, 7, 6, 4)), 0.1, 3, 0.2, 5, 0.3, 7)
    yield "mul", (pixels, nchw(codes(rng, 2, 7, 6, 4)), 0.1, 3, 0.2, 5, 0.3, 7)
    for given in (pixels, pixels.contiguous()):
        yield "mul", (given, nchw(codes(rng, 2, 1, 1, 4)), 0.1, 3, 0.2, 5, 0.3, 7, 3, 200)
    yield "lut", (pixels, t(codes(rng, 256)))
    for given in (pixels, pixels.contiguous()):
        yield "resize_nearest", (given, [5, 13])
        yield "resize_linear", (given, [14, 9], False, X_SCALE, X_ZERO, 0.05, 110)
        yield "pad2d", (given, [1, 0, 2, 3], 117)
        yield "pixel_shuffle", (given, 2)
        yield "pixel_unshuffle", (given[:, :, :6], 2)
        yield "channel_shuffle", (given, 2)
    for dtype in (U8, F32):
        yield "adaptive_avg_pool2d", (pixels, [7, 3], X_SCALE, X_ZERO, dtype, 0.05, 110)


SAMPLES = list(samples())


@pytest.mark.parametrize(("name", "args"), SAMPLES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(SAMPLES)])
def test_opcheck(name, args):
    torch.library.opcheck(getattr(OPS, name).default, args)


def test_every_operator_is_opchecked():
    # qgemm::program, which test_program_module checks, is registered with the first program of the process.
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("qgemm::")} - {"qgemm::program"}
    assert {f"qgemm::{name}" for name, _ in SAMPLES} == registered == {f"qgemm::{name}" for name in qgemm.ops.__all__}


@pytest.mark.parametrize(("name", "args"), [s for s in SAMPLES if s[1][0].is_floating_point()][::2])
def test_inputs_that_require_grad_give_results_that_do_not(name, args):
    plain = getattr(OPS, name)(*args)
    tracked = getattr(OPS, name)(args[0].detach().clone(memory_format=torch.preserve_format).requires_grad_(), *args[1:])
    for a, b in zip(torch.utils._pytree.tree_leaves(plain), torch.utils._pytree.tree_leaves(tracked), strict=True):
        assert torch.equal(a, b) and not b.requires_grad
    with torch.inference_mode():
        assert torch.equal(torch.utils._pytree.tree_leaves(getattr(OPS, name)(*args))[0], torch.utils._pytree.tree_leaves(plain)[0])


# ---- the arithmetic -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, 0, 1, 2, 3])
def test_quantize_and_dequantize(axis, rng, isa):
    x = rng.normal(size=(2, 3, 5, 4)).astype(np.float32) * 3
    c = 1 if axis == -1 else x.shape[axis]
    scale, zero = rng.uniform(0.01, 0.1, c).astype(np.float32), rng.integers(-5, 6, c, dtype=np.int32)
    want = numerics.quantize(x, scale, zero, -128, 127, axis).astype(np.int8)
    for given in (
        t(x),
        t(x).to(memory_format=torch.channels_last),
        t(x.transpose(2, 0, 3, 1)).permute(1, 3, 0, 2),
        t(x).repeat(1, 1, 1, 2)[..., :4],
    ):
        assert given.shape == x.shape
        q = OPS.quantize(given, t(scale), t(zero), -128, 127, S8, axis)
        assert np.array_equal(q.numpy(), want)
        assert q.stride() == torch.empty_like(given).stride()
        assert np.array_equal(OPS.dequantize(q, t(scale), t(zero), axis).numpy(), numerics.dequantize(want, scale, zero, axis))


@pytest.mark.parametrize("symmetric", [False, True])
def test_quantize_dynamic(symmetric, rng, isa):
    x = rng.normal(size=(3, 4, 33)).astype(np.float32)
    x[1, 2] = 0
    q, scale, zero = OPS.quantize_dynamic(t(x), True, symmetric)
    want_scale, want_zero = numerics.dynamic_encoding(x.reshape(12, 33), True, symmetric)
    assert q.shape == x.shape and scale.shape == zero.shape == (3, 4)
    assert np.array_equal(scale.numpy().ravel(), want_scale) and np.array_equal(zero.numpy().ravel(), want_zero)
    assert np.array_equal(q.numpy().reshape(12, 33), numerics.quantize(x.reshape(12, 33), want_scale, want_zero, 0, 255, 0))
    assert scale[1, 2] == 1


@pytest.mark.parametrize(("m", "n", "k"), [(0, 5, 7), (1, 1, 1), (4, 0, 3), (3, 5, 0), (1, 65, 129), (13, 33, 64), (31, 67, 257)])
@pytest.mark.parametrize("zero_point", [False, True])
def test_linear(m, n, k, zero_point, rng, isa):
    w = linear_weight(rng, n, k, zero_point=zero_point)
    x = codes(rng, m, k)
    packed = packed_linear(*w)
    zero = 0 if w[2] is None else w[2]
    y = numerics.linear(x, w[0], X_SCALE, X_ZERO, w[1], zero, w[3])
    assert np.array_equal(OPS.linear(t(x), packed, n, F32).numpy(), y)
    assert np.array_equal(OPS.linear(t(x), packed, n, F32, 1.0, 0, 0.0, 6.0).numpy(), np.clip(y, 0, 6))
    assert np.array_equal(OPS.linear(t(x), packed, n, S32).numpy(), numerics.gemm(x, w[0], X_ZERO, zero))
    assert np.array_equal(OPS.linear(t(x), packed, n, U8, 0.07, 99).numpy(), numerics.requantize(y, 0.07, 99))
    assert np.array_equal(OPS.linear(t(x), packed, n, U8, 0.07, 99, 99.0, 140.0).numpy(), numerics.requantize(y, 0.07, 99, 99, 140))
    assert np.array_equal(OPS.linear(t(x), packed, n, S8, 0.07, -29).numpy(), numerics.requantize(y, 0.07, -29, -128, 127))


@pytest.mark.parametrize("bits,group_size", [(8, 0), (4, 0), (4, 32), (4, 4)])
@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("symmetric", [False, True])
def test_linear_dynamic(bits, group_size, per_row, symmetric, rng, isa):
    for shape, n in (((7, 65), 33), ((2, 3, 64), 5), ((31,), 16), ((2, 0, 12), 3)):
        w = linear_weight(rng, n, shape[-1], bits, group_size)
        x = rng.normal(size=shape).astype(np.float32)
        y = OPS.linear_dynamic(t(x), packed_linear(*w, static=False, bits=bits, group_size=group_size), n, per_row, symmetric)
        rows = x.reshape(-1, shape[-1]) if x.size else np.zeros((0, shape[-1]), np.float32)
        want = numerics.linear_dynamic(rows, w[0], w[1], 0, w[3], group_size, per_row, symmetric)
        assert y.shape == (*shape[:-1], n)
        assert np.array_equal(y.numpy().reshape(-1, n), want)


CONVS = {
    "3x3": (8, 4, 3, 3, 1, (1, 1), (1, 1, 1, 1), (1, 1)),
    "1x1": (17, 33, 1, 1, 1, (1, 1), (0, 0, 0, 0), (1, 1)),
    "strided, uneven padding": (5, 3, 3, 2, 1, (2, 3), (0, 1, 2, 3), (1, 1)),
    "dilated": (6, 5, 3, 3, 1, (1, 1), (2, 2, 2, 2), (2, 2)),
    "groups": (8, 2, 3, 3, 4, (1, 1), (1, 1, 1, 1), (1, 1)),
    "depthwise": (67, 1, 3, 3, 67, (2, 2), (1, 1, 1, 1), (1, 1)),
}


@pytest.mark.parametrize("case", CONVS.values(), ids=CONVS)
def test_conv2d(case, rng, isa):
    cout, per_group, kh, kw, groups, stride, padding, dilation = case
    x = codes(rng, 2, 9, 8, per_group * groups)
    w, scale, bias = conv_weight(rng, cout, per_group, kh, kw)
    packed = packed_conv(w, scale, bias, groups)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    y = numerics.conv2d(x, w, X_SCALE, X_ZERO, scale, 0, bias, **geometry)
    for given in (nchw(x), nchw(x).contiguous()):
        args = given, packed, cout, (kh, kw), stride, padding, dilation
        got = OPS.conv2d(*args, F32)
        assert np.array_equal(got.permute(0, 2, 3, 1).numpy(), y) and got.is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(OPS.conv2d(*args, U8, 0.2, 99).permute(0, 2, 3, 1).numpy(), numerics.requantize(y, 0.2, 99))
        acc = numerics.conv2d_accumulate(x, w, X_ZERO, **geometry)
        assert np.array_equal(OPS.conv2d(*args, S32).permute(0, 2, 3, 1).numpy(), acc)


@pytest.mark.parametrize("case", CONVS.values(), ids=CONVS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_conv2d_dynamic(case, symmetric, rng, isa):
    cout, per_group, kh, kw, groups, stride, padding, dilation = case
    x = rng.normal(size=(2, 9, 8, per_group * groups)).astype(np.float32)
    w, scale, bias = conv_weight(rng, cout, per_group, kh, kw)
    packed = packed_conv(w, scale, bias, groups, static=False)
    (x_scale,), (x_zero,) = numerics.dynamic_encoding(x.reshape(1, -1), False, symmetric)
    q = numerics.quantize(x, x_scale, x_zero, 0, 255).astype(np.uint8)
    want = numerics.conv2d(q, w, x_scale, int(x_zero), scale, 0, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
    for given in (nchw(x), nchw(x).contiguous(), nchw(x).repeat(1, 1, 1, 2)[..., :8]):
        for channels_last in (False, True):
            got = OPS.conv2d_dynamic(given, packed, cout, (kh, kw), stride, padding, dilation, symmetric, channels_last)
            assert np.array_equal(got.permute(0, 2, 3, 1).numpy(), want)
            assert got.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_conv1d_is_conv2d_of_height_one(rng):
    w, scale, bias = conv_weight(rng, 6, 4, 1, 5)
    x = codes(rng, 3, 20, 4)  # [B, L, C]
    window = (5,), (2,), (1, 3), (2,)
    y = numerics.conv2d(x[:, None], w, X_SCALE, X_ZERO, scale, 0, bias, stride=(1, 2), padding=(0, 1, 0, 3), dilation=(1, 2))[:, 0]
    line = torch.from_numpy(x).transpose(1, 2)
    for given in (line, line.contiguous()):
        assert np.array_equal(OPS.conv1d(given, packed_conv(w, scale, bias), 6, *window, F32).transpose(1, 2).numpy(), y)
    real = t(rng.normal(size=(3, 4, 20)).astype(np.float32))
    packed = packed_conv(w, scale, bias, static=False)
    as_2d = OPS.conv2d_dynamic(real[:, :, None], packed, 6, (1, 5), (1, 2), (0, 1, 0, 3), (1, 2))[:, :, 0]
    for channels_last in (False, True):
        assert torch.equal(OPS.conv1d_dynamic(real, packed, 6, *window, False, channels_last), as_2d)


def test_pools_add_and_table(rng, isa):
    x, b = codes(rng, 2, 9, 8, 35), codes(rng, 2, 9, 8, 35)
    window = (3, 2), (2, 1), (1, 0, 1, 1)
    for given in (nchw(x), nchw(x).contiguous()):
        got = OPS.max_pool2d(given, *window, (1, 2))
        assert np.array_equal(got.permute(0, 2, 3, 1).numpy(), numerics.max_pool2d(x, *window, (1, 2)))
        for include in (False, True):
            y = numerics.avg_pool2d(x, *window, include, X_SCALE, X_ZERO)
            got = OPS.avg_pool2d(given, *window, include, X_SCALE, X_ZERO, F32)
            assert np.array_equal(got.permute(0, 2, 3, 1).numpy(), y)
            got = OPS.avg_pool2d(given, *window, include, X_SCALE, X_ZERO, U8, 0.03, 90)
            assert np.array_equal(got.permute(0, 2, 3, 1).numpy(), numerics.requantize(y, 0.03, 90))
        want = numerics.add(x, b, 0.1, 3, 0.2, 5, 0.25, 7)
        for other in (nchw(b), nchw(b).contiguous()):
            got = OPS.add(given, other, 0.1, 3, 0.2, 5, 0.25, 7)
            assert np.array_equal(got.permute(0, 2, 3, 1).numpy(), want) and got.stride() == given.stride()
        table = codes(rng, 256)
        assert np.array_equal(OPS.lut(given, t(table)).permute(0, 2, 3, 1).numpy(), table[x])


def test_images_move_and_resize_as_in_torch(rng, isa):
    x = codes(rng, 2, 8, 6, 24)
    functional = torch.nn.functional
    for given in (nchw(x), nchw(x).contiguous(), nchw(x)[:, :, ::2]):
        real = (given.float() - X_ZERO) * X_SCALE
        for size in ((5, 13), (16, 12), (1, 1), tuple(given.shape[2:])):
            assert torch.equal(OPS.resize_nearest(given, size), functional.interpolate(given, size, mode="nearest"))
            for corners in (False, True):
                want = functional.interpolate(real.double(), size, mode="bilinear", align_corners=corners)
                got = (OPS.resize_linear(given, size, corners, X_SCALE, X_ZERO, 0.06, 110).float() - 110) * 0.06
                assert (got - want).abs().max() <= 0.0301
        assert torch.equal(OPS.pad2d(given, (1, 0, 2, 3), 9), functional.pad(given, (0, 3, 1, 2), value=9))
        assert torch.equal(OPS.pixel_shuffle(given, 2), functional.pixel_shuffle(given, 2))
        for factor in (1, 2):
            got = OPS.pixel_unshuffle(given, factor)
            assert torch.equal(got, functional.pixel_unshuffle(given, factor)) and got.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(OPS.channel_shuffle(given, 3), functional.channel_shuffle(given, 3))
        mean = functional.adaptive_avg_pool2d(real, (4, 2))
        torch.testing.assert_close(OPS.adaptive_avg_pool2d(given, (4, 2), X_SCALE, X_ZERO, F32), mean, atol=1e-5, rtol=1e-5)
        q = OPS.adaptive_avg_pool2d(given, (1, 1), X_SCALE, X_ZERO, U8, 0.03, 90, 90.0)
        assert q.shape == (2, 24, 1, 1) and q.is_contiguous(memory_format=torch.channels_last) and q.min() >= 90


def test_a_pool_that_rounds_its_size_up_is_one_with_more_padding(rng):
    x = nchw(codes(rng, 2, 8, 7, 5))
    want = torch.nn.functional.max_pool2d(x.float(), 3, 2, 1, ceil_mode=True)
    assert torch.equal(OPS.max_pool2d(x, (3, 3), (2, 2), (1, 1, 2, 1)).float(), want)
    real = (x.float() - X_ZERO) * X_SCALE
    mean = torch.nn.functional.avg_pool2d(real, 3, 2, 1, ceil_mode=True, count_include_pad=False)
    got = OPS.avg_pool2d(x, (3, 3), (2, 2), (1, 1, 2, 1), False, X_SCALE, X_ZERO, F32)
    torch.testing.assert_close(got, mean, atol=1e-5, rtol=1e-5)


def test_channels_last_memory_is_used_where_it_lies(rng, monkeypatch):
    """The engine gets the tensor's own memory: no layout change on the way in, and none on the way out. By both roads: the one on
    tensors, which answers for what is plain, and the one on numpy arrays."""
    seen = {}

    def spy(x, packed, out, *args):
        seen.update(x=x.ctypes.data, packed=packed.ctypes.data, out=out.ctypes.data)
        real(x, packed, out, *args)

    real = _core.conv2d
    monkeypatch.setattr(_core, "conv2d", spy)
    w = conv_weight(rng, 8, 4, 3, 3)
    packed, x = packed_conv(*w), nchw(codes(rng, 2, 9, 8, 4))
    window = (3, 3), (1, 1), (0, 0, 0, 0), (1, 1)
    direct = _core.tensor_conv2d(x, packed, 8, *window, U8, 1.0, 0, None, None)
    assert _core.tensor_conv2d(x.contiguous(), packed, 8, *window, U8, 1.0, 0, None, None) is None
    y = OPS.conv2d(torch.nn.Parameter(x, requires_grad=False), packed, 8, *window, U8)
    assert seen == {"x": x.data_ptr(), "packed": packed.data_ptr(), "out": y.data_ptr()}
    assert torch.equal(y, direct) and y.stride() == direct.stride()
    packed = packed_conv(*w, static=False)
    y = OPS.conv2d_dynamic(torch.randn(2, 4, 9, 8), packed, 8, (3, 3), (1, 1), (0, 0, 0, 0), (1, 1), False, True)
    assert seen["out"] == y.data_ptr()


def test_results_do_not_depend_on_the_number_of_threads(rng):
    w, cw = linear_weight(rng, 257, 300), conv_weight(rng, 65, 16, 3, 3)
    x, image = t(rng.normal(size=(130, 300)).astype(np.float32)), t(rng.normal(size=(2, 16, 40, 40)).astype(np.float32))
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert _core.max_threads() == threads  # one OpenMP runtime for torch and the engine
        y = OPS.linear_dynamic(x, packed_linear(*w, static=False), 257)
        z = OPS.conv2d_dynamic(image, packed_conv(*cw, static=False), 65, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
        results.append((y, z))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# ---- bad input ----------------------------------------------------------------------------------------------------------------------

W = linear_weight(np.random.default_rng(0), 6, 8)
CW = conv_weight(np.random.default_rng(0), 6, 4, 3, 3)
WINDOW = (3, 3), (1, 1), (0, 0, 0, 0), (1, 1)
LINEAR, DYNAMIC, CONV = packed_linear(*W), packed_linear(*W, static=False), packed_conv(*CW)
X, Q, PIXELS = torch.randn(3, 8), torch.zeros(3, 8, dtype=U8), torch.zeros(1, 4, 5, 5, dtype=U8)
ONE, ZERO = torch.ones(1), torch.zeros(1, dtype=S32)

BAD = {
    "float64 input": (DTypeError, "float32", lambda: OPS.linear_dynamic(X.double(), DYNAMIC, 6)),
    "bfloat16 input": (DTypeError, "bfloat16", lambda: OPS.linear_dynamic(X.bfloat16(), DYNAMIC, 6)),
    "float input of an integer op": (DTypeError, "uint8", lambda: OPS.linear(X, LINEAR, 6, U8)),
    "output type": (DTypeError, "out", lambda: OPS.linear(Q, LINEAR, 6, torch.float64)),
    "bfloat16 output": (DTypeError, "bfloat16", lambda: OPS.linear(Q, LINEAR, 6, torch.bfloat16)),
    "packed of another type": (DTypeError, "packed", lambda: OPS.linear(Q, LINEAR.float(), 6, U8)),
    "K": (ShapeError, "K = 7", lambda: OPS.linear_dynamic(X[:, :7], DYNAMIC, 6)),
    "scalar": (ShapeError, "no dimensions", lambda: OPS.linear_dynamic(torch.tensor(1.0), DYNAMIC, 6)),
    "out_features": (ShapeError, "6", lambda: OPS.linear_dynamic(X, DYNAMIC, 7)),
    "rank of an image": (ShapeError, "4 dimensions", lambda: OPS.conv2d(PIXELS[0], CONV, 6, *WINDOW, U8)),
    "channels of an image": (ShapeError, "3 channels", lambda: OPS.conv2d(PIXELS[:, :3], CONV, 6, *WINDOW, U8)),
    "window larger than the image": (ShapeError, "window", lambda: OPS.conv2d(PIXELS[:, :, :2], CONV, 6, *WINDOW, U8)),
    "kernel_size of another weight": (ShapeError, "out must", lambda: OPS.conv2d(PIXELS, CONV, 6, (1, 1), *WINDOW[1:], U8)),
    "stride 0": (ShapeError, "at least 1", lambda: OPS.conv2d(PIXELS, CONV, 6, (3, 3), (0, 1), *WINDOW[2:], U8)),
    "two paddings": (ShapeError, "padding", lambda: OPS.conv2d(PIXELS, CONV, 6, (3, 3), (1, 1), (1, 1), (1, 1), U8)),
    "shapes of an addition": (ShapeError, "one shape", lambda: OPS.add(Q, Q[:1], 1.0, 0, 1.0, 0, 1.0, 0)),
    "float image": (DTypeError, "uint8", lambda: OPS.resize_nearest(PIXELS.float(), (2, 2))),
    "size of an image": (ShapeError, "height and a width", lambda: OPS.resize_linear(PIXELS, (2,), False, 1.0, 0, 1.0, 0)),
    "negative padding": (ShapeError, "negative", lambda: OPS.pad2d(PIXELS, (0, -1, 0, 0), 0)),
    "value of padding": (QuantizationError, "0..255", lambda: OPS.pad2d(PIXELS, (0, 1, 0, 0), 256)),
    "channels of a pixel shuffle": (ShapeError, "multiple of 9", lambda: OPS.pixel_shuffle(PIXELS, 3)),
    "sides of a pixel unshuffle": (ShapeError, "multiple of 2", lambda: OPS.pixel_unshuffle(PIXELS, 2)),
    "groups of a channel shuffle": (ShapeError, "multiple of 3", lambda: OPS.channel_shuffle(PIXELS, 3)),
    "adaptive pool": (ShapeError, "multiple of 2", lambda: OPS.adaptive_avg_pool2d(PIXELS, (2, 1), 1.0, 0, F32)),
    "table": (ShapeError, "256", lambda: OPS.lut(Q, torch.zeros(255, dtype=U8))),
    "zero scale": (QuantizationError, "scale", lambda: OPS.quantize(X, ONE * 0, ZERO, 0, 255, U8)),
    "NaN scale": (QuantizationError, "scale", lambda: OPS.linear(Q, LINEAR, 6, U8, float("nan"), 0)),
    "zero point": (QuantizationError, "256", lambda: OPS.linear(Q, LINEAR, 6, U8, 1.0, 256)),
    "NaN input": (QuantizationError, "NaN", lambda: OPS.linear_dynamic(X / 0 * 0, DYNAMIC, 6)),
    "NaN image": (
        QuantizationError,
        "NaN",
        lambda: OPS.conv2d_dynamic(torch.full((1, 4, 5, 5), torch.nan), packed_conv(*CW, static=False), 6, *WINDOW),
    ),
    "not a packed weight": (PackedWeightError, "packed", lambda: OPS.linear_dynamic(X, torch.zeros(500, dtype=U8), 6)),
    "cut packed weight": (PackedWeightError, "bytes", lambda: OPS.linear_dynamic(X, DYNAMIC[:-64].clone(), 6)),
    "weight of a convolution": (PackedWeightError, "convolution", lambda: OPS.linear(Q, CONV, 6, U8)),
    "weight of a linear layer": (PackedWeightError, "pack_linear", lambda: OPS.conv2d(PIXELS, LINEAR, 6, *WINDOW, U8)),
    "static weight, dynamic op": (PackedWeightError, "static", lambda: OPS.linear_dynamic(X, LINEAR, 6)),
    "meta weight": (DeviceError, "meta", lambda: OPS.linear_dynamic(X, DYNAMIC.to("meta"), 6)),
    "sparse input": (LayoutError, "dense", lambda: OPS.linear_dynamic(X.to_sparse(), DYNAMIC, 6)),
}


@pytest.mark.parametrize(("error", "says", "call"), BAD.values(), ids=BAD)
def test_bad_input(error, says, call):
    with pytest.raises(error, match=says):
        call()


def test_meta_in_meta_out():
    y = OPS.linear_dynamic(X.to("meta"), DYNAMIC.to("meta"), 6)
    assert y.device.type == "meta" and y.shape == (3, 6)


def test_foreign_devices_are_refused_by_name():
    """What a CUDA tensor would meet, on a machine that has none."""
    for name in ("linear", "conv2d", "lut"):
        for key in ("CUDA", "MPS", "XPU"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"qgemm::{name}", key)


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda x: torch.ops.qgemm.resize_linear(x[:, :, :0], [3, 3], False, 1.0, 0, 1.0, 0), "has none to read"),
        (lambda x: torch.ops.qgemm.resize_nearest(x[..., :0], [3, 3]), "has none to read"),
        (lambda x: torch.ops.qgemm.adaptive_avg_pool2d(x[:, :, :0], [1, 1], 1.0, 0, torch.uint8), "has none to read"),
        (lambda x: torch.ops.qgemm.pixel_shuffle(x, -2), "factor of -2"),
        (lambda x: torch.ops.qgemm.pixel_unshuffle(x, 0), "factor of 0"),
        (lambda x: torch.ops.qgemm.channel_shuffle(x, 0), "factor of 0"),
    ],
)
def test_images_without_pixels_and_factors_below_one_are_refused(call, what):
    with pytest.raises(ShapeError, match=what):
        call(torch.zeros(1, 4, 6, 6, dtype=torch.uint8))
