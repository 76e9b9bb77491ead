"""Transposed and three-dimensional convolutions: the engine, the torch operators and the layers against ``qgemm.numerics`` and PyTorch."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

import qgemm
from qgemm import _core, errors, numerics


@pytest.fixture(autouse=True)
def _put_back():
    before = _core.max_threads()
    yield
    _core.force_isa(None)
    ctypes.CDLL("libgomp.so.1").omp_set_num_threads(before)


def paths():
    for isa, threads in itertools.product(_core.available_isas(), (1, 2)):
        _core.force_isa(isa)
        ctypes.CDLL("libgomp.so.1").omp_set_num_threads(threads)
        yield f"{isa}, {threads} threads"


class Layer:
    """Random weights of ``n`` outputs and an input of ``shape``, channels last."""

    def __init__(self, rng, weight_shape, n, x_shape, bits=8, zero_points=False):
        lo, hi = numerics.grid(bits, True)
        self.w = rng.integers(lo, hi + 1, weight_shape, dtype=np.int8)
        self.scale = rng.uniform(0.001, 0.02, n).astype(np.float32)
        self.zero = rng.integers(-3, 4, n, dtype=np.int32) if zero_points else None
        self.bias = rng.normal(size=n).astype(np.float32)
        self.x = rng.integers(0, 256, x_shape, dtype=np.uint8)
        self.x_scale, self.x_zero, self.bits = 0.02, int(rng.integers(0, 256)), bits

    def packing(self):
        given = {"zero_point": self.zero, "bias": self.bias, "bits": self.bits, "x_scale": self.x_scale, "x_zero_point": self.x_zero}
        return self.w, self.scale, given

    def real(self, acc):
        return numerics.to_float(acc, numerics.output_scale(self.x_scale, self.scale), self.bias)


def geometries(rng, count):
    for _ in range(count):
        groups = int(rng.choice([1, 1, 1, 2, 5]))
        per_in, per_out = (int(v) for v in rng.choice([1, 2, 3, 4, 7, 17], 2))
        if groups == 5:
            per_in = per_out = 1
        kernel, stride = rng.integers(1, 5, 2), rng.integers(1, 4, 2)
        dilation = rng.choice([1, 1, 1, 2, 3], 2)
        padding, size = rng.integers(0, 3, 4), rng.integers(1, 7, 2)
        extra = [int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True)]
        full = [(n - 1) * s + d * (k - 1) + 1 + e for n, s, d, k, e in zip(size, stride, dilation, kernel, extra, strict=True)]
        if full[0] > padding[0] + padding[2] and full[1] > padding[1] + padding[3]:
            ints = [tuple(int(v) for v in a) for a in (kernel, stride, dilation, padding, extra, size)]
            yield groups, per_in, per_out, *ints


@pytest.mark.parametrize("seed", range(8))
def test_transposed_convolution_is_the_definition(rng, seed):
    for groups, per_in, per_out, kernel, stride, dilation, padding, extra, size in geometries(rng, 20):
        n, bits, zeros = groups * per_out, int(rng.choice([8, 8, 4])), bool(rng.random() < 0.25)
        layer = Layer(rng, (groups * per_in, per_out, *kernel), n, (2, *size, groups * per_in), bits, zeros)
        w, scale, given = layer.packing()
        packed = _core.pack_conv_transpose2d(w, scale, groups=groups, stride=stride, dilation=dilation, **given)
        assert np.array_equal(_core.unpack_weight(packed), w)
        geometry = {"stride": stride, "padding": padding, "output_padding": extra, "dilation": dilation, "groups": groups}
        acc = numerics.conv_transpose2d_accumulate(layer.x, w, layer.x_zero, 0 if layer.zero is None else layer.zero, **geometry)
        y = layer.real(acc)
        for what in paths():
            for want, epilogue in ((acc, ()), (y, ()), (numerics.requantize(y, 0.2, 99).astype(np.uint8), (0.2, 99))):
                got = np.empty(want.shape, want.dtype)
                _core.conv_transpose2d(layer.x, packed, got, stride, padding, extra, dilation, *epilogue)
                assert np.array_equal(got, want), (what, groups, per_in, per_out, kernel, stride, dilation, padding, extra, size)


@pytest.mark.parametrize("seed", range(4))
def test_convolution_of_volumes_is_the_definition(rng, seed):
    for _ in range(15):
        groups = int(rng.choice([1, 1, 2, 5]))
        per_in, per_out = (1, 1) if groups == 5 else (int(v) for v in rng.choice([1, 2, 3, 17], 2))
        kernel, stride = tuple(int(v) for v in rng.integers(1, 4, 3)), tuple(int(v) for v in rng.integers(1, 3, 3))
        dilation, padding = tuple(int(v) for v in rng.choice([1, 1, 2], 3)), tuple(int(v) for v in rng.integers(0, 3, 6))
        size = tuple(int(v) for v in rng.integers(5, 8, 3))
        layer = Layer(
            rng, (groups * per_out, per_in, *kernel), groups * per_out, (2, *size, groups * per_in), zero_points=rng.random() < 0.25
        )
        w, scale, given = layer.packing()
        packed = _core.pack_conv3d(w, scale, groups=groups, **given)
        zero = 0 if layer.zero is None else layer.zero
        acc = numerics.conv3d_accumulate(layer.x, w, layer.x_zero, zero, None, stride, padding, dilation, groups)
        want = numerics.requantize(layer.real(acc), 0.2, 99).astype(np.uint8)
        for what in paths():
            for expected, epilogue in ((acc, ()), (want, (0.2, 99))):
                got = np.empty(expected.shape, expected.dtype)
                _core.conv3d(layer.x, packed, got, kernel, stride, padding, dilation, *epilogue)
                assert np.array_equal(got, expected), (what, groups, per_in, per_out, kernel, stride, padding, dilation)


def test_numerics_are_those_of_pytorch(rng):
    torch = pytest.importorskip("torch")
    for groups, per_in, per_out, kernel, stride, dilation, padding, extra, size in geometries(rng, 30):
        if padding[:2] != padding[2:]:
            continue
        layer = Layer(rng, (groups * per_in, per_out, *kernel), groups * per_out, (2, *size, groups * per_in))
        geometry = {"stride": stride, "padding": padding[:2], "output_padding": extra, "dilation": dilation, "groups": groups}
        x, w = torch.from_numpy(layer.x).permute(0, 3, 1, 2).double(), torch.from_numpy(layer.w).double()
        want = torch.nn.functional.conv_transpose2d(x, w, **geometry).permute(0, 2, 3, 1).numpy()
        got = numerics.conv_transpose2d_accumulate(layer.x, layer.w, **{**geometry, "padding": padding})
        assert np.array_equal(got, want)
    layer = Layer(rng, (6, 2, 3, 2, 3), 6, (2, 6, 5, 7, 4))
    x, w = torch.from_numpy(layer.x).permute(0, 4, 1, 2, 3).double(), torch.from_numpy(layer.w).double()
    want = torch.nn.functional.conv3d(x, w, stride=(2, 1, 2), padding=(1, 0, 1), dilation=(1, 2, 1), groups=2)
    got = numerics.conv3d_accumulate(layer.x, layer.w, 0, 0, None, (2, 1, 2), (1, 0, 1, 1, 0, 1), (1, 2, 1), 2)
    assert np.array_equal(got, want.permute(0, 2, 3, 4, 1).numpy())


def test_the_accumulator_is_proven_for_each_part():
    """A weight that would overflow int32 in one sum, but whose outputs each read a quarter of it."""
    w = np.full((20000, 1, 2, 2), -128, np.int8)
    packed = _core.pack_conv_transpose2d(w, np.ones(1, np.float32), stride=(2, 2))
    x = np.full((1, 1, 1, 20000), 255, np.uint8)
    acc = np.empty((1, 2, 2, 1), np.int32)
    _core.conv_transpose2d(x, packed, acc, (2, 2), (0, 0, 0, 0), (0, 0), (1, 1))
    assert (acc == -128 * 255 * 20000).all()
    with pytest.raises(errors.AccumulatorOverflowError, match="layer 'up'"):
        _core.pack_conv_transpose2d(np.full((70000, 1, 2, 2), -128, np.int8), np.ones(1, np.float32), stride=(2, 2), name="up")


def test_what_does_not_fit_is_refused(rng):
    layer = Layer(rng, (3, 4, 2, 2), 4, (1, 3, 3, 3))
    w, scale, given = layer.packing()
    pack = _core.pack_conv_transpose2d
    packed = pack(w, scale, stride=(2, 2), **given)
    out = np.empty((1, 6, 6, 4), np.uint8)
    good = dict(x=layer.x, packed=packed, out=out, stride=(2, 2), padding=(0,) * 4, output_padding=(0, 0), dilation=(1, 1))
    _core.conv_transpose2d(**good)
    for change, error, words in [
        ({"stride": (1, 2)}, errors.PackedWeightError, "pack it for them"),
        ({"dilation": (2, 1)}, errors.PackedWeightError, "pack it for them"),
        ({"padding": (-1, 0, 0, 0)}, errors.ShapeError, "padding"),
        ({"padding": (9, 0, 0, 0)}, errors.ShapeError, "no pixels"),
        ({"output_padding": (2, 0)}, errors.ShapeError, "less than the stride"),
        ({"x": layer.x[..., :2].copy()}, errors.ShapeError, "channels"),
        ({"x": layer.x.astype(np.int8)}, errors.DTypeError, "uint8"),
        ({"x": layer.x[0]}, errors.ShapeError, "4 dimensions"),
        ({"out": np.empty((1, 5, 6, 4), np.uint8)}, errors.ShapeError, "(1, 6, 6, 4)"),
        ({"out": out[:, ::-1]}, errors.LayoutError, "contiguous"),
        ({"packed": packed[:-64].copy()}, errors.PackedWeightError, "bytes"),
        ({"packed": _core.pack_conv2d(w, scale[:3])}, errors.PackedWeightError, "transposed"),
        ({"x_zero_point": 7}, errors.PackedWeightError, "packed"),
        ({"x_scale": float("nan"), "x_zero_point": layer.x_zero}, errors.QuantizationError, "x_scale"),
    ]:
        with pytest.raises(error, match=words.replace("(", r"\(").replace(")", r"\)")):
            _core.conv_transpose2d(**(good | change))
    for arguments, error in [
        (dict(weight=w[0], scale=scale), errors.ShapeError),
        (dict(weight=w.astype(np.uint8), scale=scale), errors.DTypeError),
        (dict(weight=w, scale=scale[:2]), errors.ShapeError),
        (dict(weight=w, scale=scale, groups=2), errors.ShapeError),
        (dict(weight=w, scale=scale, groups=0), errors.ShapeError),
        (dict(weight=w, scale=scale, stride=(0, 1)), errors.ShapeError),
        (dict(weight=w, scale=scale, stride=(5000, 1)), errors.ShapeError),
        (dict(weight=w, scale=scale, dilation=(1, 0)), errors.ShapeError),
        (dict(weight=w, scale=-scale), errors.QuantizationError),
    ]:
        with pytest.raises(error):
            pack(**arguments)
    for wrong in (packed, np.zeros(64, np.uint8)):  # a transposed weight is no other weight, and noise is none
        with pytest.raises(errors.PackedWeightError):
            _core.conv2d(layer.x, wrong, out, (1, 1), (0, 0, 0, 0), (1, 1))


def test_a_damaged_buffer_is_refused_or_computes(rng):
    """Any byte of the headers may be anything: a typed error, or the same sizes as before."""
    layer = Layer(rng, (3, 4, 3, 3), 4, (1, 3, 3, 3))
    w, scale, given = layer.packing()
    packed = _core.pack_conv_transpose2d(w, scale, stride=(2, 2), **given)
    out = np.empty((1, 7, 7, 4), np.uint8)
    starts = [0, 256]
    for _ in range(400):
        bad = packed.copy()
        for at in rng.integers(0, 256, rng.integers(1, 4)) + rng.choice(starts):
            bad[at] = rng.integers(0, 256)
        try:
            _core.conv_transpose2d(layer.x, bad, out, (2, 2), (0,) * 4, (0, 0), (1, 1))
        except errors.QgemmError:
            pass


def test_volumes_that_do_not_fit_are_refused(rng):
    layer = Layer(rng, (4, 3, 2, 3, 3), 4, (1, 4, 5, 6, 3))
    w, scale, given = layer.packing()
    packed = _core.pack_conv3d(w, scale, **given)
    good = dict(x=layer.x, packed=packed, out=np.empty((1, 3, 3, 4, 4), np.uint8), kernel=(2, 3, 3), stride=(1,) * 3, padding=(0,) * 6)
    good["dilation"] = (1,) * 3
    _core.conv3d(**good)
    for change, error in [
        ({"kernel": (3, 2, 3), "out": np.empty((1, 2, 4, 4, 4), np.uint8)}, None),  # the same taps: indistinguishable, and safe
        ({"kernel": (2, 3, 2)}, errors.PackedWeightError),
        ({"kernel": (0, 3, 3)}, errors.ShapeError),
        ({"stride": (0, 1, 1)}, errors.ShapeError),
        ({"padding": (0, 0, -1, 0, 0, 0)}, errors.ShapeError),
        ({"x": layer.x[..., :2].copy()}, errors.ShapeError),
        ({"out": np.empty((1, 3, 3, 5, 4), np.uint8)}, errors.ShapeError),
        ({"packed": _core.pack_linear(w.reshape(4, -1), scale)}, errors.PackedWeightError),
    ]:
        if error is None:
            _core.conv3d(**(good | change))
            continue
        with pytest.raises(error):
            _core.conv3d(**(good | change))


# ---- layers -------------------------------------------------------------------------------------------------------------------------


def layers():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    return {
        "2x2": nn.ConvTranspose2d(5, 7, 2, 2),
        "4x4": nn.ConvTranspose2d(16, 9, 4, 2, 1, bias=False),
        "odd": nn.ConvTranspose2d(6, 4, (3, 2), (2, 3), (1, 0), (1, 2), dilation=(2, 1)),
        "groups": nn.ConvTranspose2d(6, 4, 3, 2, groups=2),
        "depthwise": nn.ConvTranspose2d(8, 8, 3, 2, 1, 1, groups=8),
        "line": nn.ConvTranspose1d(6, 5, 4, 2, 1, 1),
    }


def sqnr(want, got):
    want = want.detach()
    return float(10 * (want.pow(2).mean() / (got - want).pow(2).mean()).log10())


@pytest.mark.parametrize("name", ["2x2", "4x4", "odd", "groups", "depthwise", "line"])
@pytest.mark.parametrize("config", [qgemm.W8A8Dynamic(), qgemm.W8A8Dynamic(symmetric_activations=True), qgemm.W4A8Dynamic()], ids=repr)
def test_layers(name, config):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    conv = layers()[name]
    kind = getattr(qgemm.nn, type(conv).__name__)
    q = kind.from_float(conv, config)
    x = torch.randn(2, conv.in_channels, *[9, 8][: len(conv.kernel_size)])
    scale, ints = q.weight_scale.numpy(), q.int_weight().numpy()
    assert ints.shape == tuple(conv.weight.shape) and scale.shape == (conv.out_channels,)
    assert sqnr(conv.weight, q.dequantize_weight()) > (36 if config.weight_bits == 8 else 12)
    flat = (1,) * (2 - len(conv.kernel_size))
    nhwc = np.ascontiguousarray(x.movedim(1, -1).numpy()).reshape(2, *flat, *x.shape[2:], -1)
    (x_scale,), (zero,) = numerics.dynamic_encoding(nhwc.reshape(1, -1), False, config.symmetric_activations)
    codes = numerics.quantize(nhwc, x_scale, zero, 0, 255).astype(np.uint8)
    none = (0,) * len(flat)
    window = {
        "stride": (*flat, *conv.stride),
        "padding": (*none, *conv.padding) * 2,
        "output_padding": (*none, *conv.output_padding),
        "dilation": (*flat, *conv.dilation),
        "groups": conv.groups,
    }
    bias = None if conv.bias is None else conv.bias.detach().numpy()
    w4 = ints.reshape(*ints.shape[:2], *flat, *ints.shape[2:])
    want = torch.from_numpy(numerics.conv_transpose2d(codes, w4, x_scale, int(zero), scale, 0, bias, **window))
    want = want.movedim(-1, 1).reshape(conv(x).shape)
    y = q(x)
    assert torch.equal(y, want) and y.is_contiguous() and not y.requires_grad
    assert torch.equal(q(x[0]), q(x[:1])[0]) and q(x[:0]).shape == (0, *y.shape[1:])
    assert sqnr(conv(x), y) > (33 if config.weight_bits == 8 else 12)
    assert "conv" not in repr(q) or "kernel_size" in repr(q)
    if len(conv.kernel_size) == 2:
        last = q(x.to(memory_format=torch.channels_last))
        assert torch.equal(last, want) and last.is_contiguous(memory_format=torch.channels_last)
        assert q.to(memory_format=torch.channels_last)(x).is_contiguous(memory_format=torch.channels_last)
    again = kind(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.output_padding,
        conv.groups,
        conv.bias is not None,
        conv.dilation,
        config=config,
    )
    again.load_state_dict(q.state_dict())
    assert torch.equal(again(x), y)
    static = kind.from_float(conv, config, input_scale=float(x_scale), input_zero_point=int(zero))
    assert torch.equal(static(x), want)


def test_output_size_as_in_torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    conv = torch.nn.ConvTranspose2d(4, 3, 3, 2, 1)
    q, x = qgemm.nn.ConvTranspose2d.from_float(conv, qgemm.W8A8Dynamic()), torch.randn(1, 4, 5, 6)
    for size in ((9, 11), (10, 12), (1, 3, 10, 11)):
        assert sqnr(conv(x, output_size=size), q(x, output_size=size)) > 33
    with pytest.raises(errors.ShapeError, match="between"):
        q(x, output_size=(11, 12))


def test_quantize_takes_transposed_convolutions_and_compiles():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 3, 3, 1, 1)
    ).eval()
    x = torch.randn(1, 3, 16, 16)
    want = net(x)
    q = qgemm.quantize_(net, qgemm.W8A8Dynamic())
    assert [type(m).__name__ for m in q if not isinstance(m, nn.ReLU)] == ["Conv2d", "ConvTranspose2d", "ConvTranspose2d"]
    assert all(type(m).__module__.startswith("qgemm") for m in q if not isinstance(m, nn.ReLU))
    got = q(x)
    assert sqnr(want, got) > 28
    exported = torch.export.export(q, (x,))
    assert torch.equal(exported.module()(x), got)


def test_layers_refuse_what_means_nothing():
    pytest.importorskip("torch")
    make = qgemm.nn.ConvTranspose2d
    for arguments in (
        dict(in_channels=4, out_channels=3, kernel_size=2, groups=2),
        dict(in_channels=4, out_channels=3, kernel_size=0),
        dict(in_channels=4, out_channels=3, kernel_size=2, stride=0),
        dict(in_channels=4, out_channels=3, kernel_size=2, output_padding=-1),
        dict(in_channels=4, out_channels=3, kernel_size=2, padding_mode="reflect"),
    ):
        with pytest.raises(errors.ConfigError):
            make(**arguments)
