"""Memory formats of qgemm.nn.Conv2d: PyTorch's own rule, the same numbers in every order, one node, and the change of order itself."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import qgemm  # noqa: E402
from qgemm import W4A8Dynamic, W8A8Dynamic, _core  # noqa: E402
from qgemm.errors import DTypeError, LayoutError, ShapeError  # noqa: E402

nn = torch.nn
LAST = torch.channels_last


@pytest.fixture(autouse=True)
def repeatable():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


CONVS = {
    "3x3": (nn.Conv2d(5, 7, 3, padding=1), (2, 5, 9, 8)),
    "pointwise": (nn.Conv2d(16, 33, 1), (2, 16, 9, 8)),
    "depthwise": (nn.Conv2d(19, 19, 3, 2, 1, groups=19), (2, 19, 9, 8)),
    "one input channel": (nn.Conv2d(1, 6, 5), (3, 1, 12, 12)),
    "one output pixel": (nn.Conv2d(4, 6, 3), (2, 4, 3, 3)),
    "reflected border": (nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), (2, 3, 6, 7)),
}


@pytest.mark.parametrize(("conv", "shape"), CONVS.values(), ids=CONVS)
@pytest.mark.parametrize("layer_last", [False, True])
@pytest.mark.parametrize("input_last", [False, True])
@pytest.mark.parametrize("config", [W8A8Dynamic(), W4A8Dynamic()], ids=["W8A8", "W4A8"])
@pytest.mark.parametrize("static", [False, True])
def test_output_format_is_pytorchs(conv, shape, layer_last, input_last, config, static):
    encoding = {"input_scale": 0.03, "input_zero_point": 120} if static else {}
    x = torch.randn(shape)
    want = qgemm.nn.Conv2d.from_float(conv, config, **encoding)(x)
    assert want.is_contiguous()
    conv = copy.deepcopy(conv)
    after = qgemm.nn.Conv2d.from_float(conv, config, **encoding)
    if layer_last:
        conv, after = conv.to(memory_format=LAST), after.to(memory_format=LAST)
    before = qgemm.nn.Conv2d.from_float(conv, config, **encoding)
    x = x.to(memory_format=LAST) if input_last else x
    for layer in (before, after, copy.deepcopy(before), pickle.loads(pickle.dumps(before))):
        y = layer(x)
        assert torch.equal(y, want)
        assert [n for n, size in zip(y.stride(), y.shape, strict=True) if size > 1] == [
            n for n, size in zip(conv(x).stride(), y.shape, strict=True) if size > 1
        ]
        assert torch.equal(layer(x[0]), layer(x[:1])[0])


def test_the_format_is_switched_and_kept():
    layer = qgemm.nn.Conv2d.from_float(nn.Conv2d(3, 5, 3), W8A8Dynamic())
    x = torch.randn(2, 3, 8, 8)
    want = layer(x)
    for change, last in (
        (lambda m: m.to(memory_format=LAST), True),
        (lambda m: m.half().float(), True),
        (lambda m: m.to(torch.bfloat16).cpu().share_memory(), True),
        (lambda m: m.to(memory_format=torch.contiguous_format), False),
        (lambda m: m.double().to("cpu"), False),
        (lambda m: nn.Sequential(nn.BatchNorm2d(3), m).to(memory_format=LAST)[1], True),
    ):
        layer = change(layer)
        assert layer.channels_last is last and ("channels_last" in repr(layer)) is last
        assert torch.equal(layer(x), want) and layer(x).is_contiguous() is not last
        assert torch.equal(qgemm.nn.Conv2d.from_float(nn.Conv2d(3, 5, 3), W8A8Dynamic())._pack(layer._buffers), layer.packed)
    fresh = qgemm.nn.Conv2d(3, 5, 3)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), want) and fresh(x).is_contiguous()


class Viewed(nn.Module):
    """Ends as torchvision's older models do: a ``view`` of what the pool left."""

    def __init__(self, pooled):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1) if pooled else nn.Identity()
        self.head = nn.Linear(24 if pooled else 24 * 64, 10)

    def forward(self, x):
        x = self.pool(self.features(x))
        return self.head(x.view(x.size(0), -1))


def test_models_that_view_after_a_convolution():
    x = torch.randn(4, 3, 16, 16)
    for pooled in (True, False):
        model = Viewed(pooled).eval()
        plain = qgemm.quantize_(copy.deepcopy(model), W8A8Dynamic())
        assert plain(x).shape == (4, 10)  # contiguous in, contiguous out: any view works
        last = qgemm.quantize_(copy.deepcopy(model).to(memory_format=LAST), W8A8Dynamic())
        assert torch.equal(last.features[0](x), plain.features[0](x))
        if pooled:
            noise = (last(x) - plain(x)).pow(2).mean() / plain(x).pow(2).mean()
            assert noise < 1e-4  # the float layers between may add up in another order
    flat = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 144, 10)).eval()
    plain = qgemm.quantize_(copy.deepcopy(flat), W8A8Dynamic())
    assert torch.equal(qgemm.quantize_(flat.to(memory_format=LAST), W8A8Dynamic())(x), plain(x))


def test_channels_last_layers_compile_and_export_as_one_node():
    layer = qgemm.nn.Conv2d.from_float(nn.Conv2d(3, 5, 3, padding=1), W8A8Dynamic()).to(memory_format=LAST).eval()
    batch, height, width = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "height", "width"))
    program = torch.export.export(layer, (torch.randn(2, 3, 8, 9),), dynamic_shapes=({0: batch, 2: height, 3: width},))
    assert [str(n.target) for n in program.graph.nodes if n.op == "call_function"] == ["qgemm.conv2d_dynamic.default"]
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: layer(x).relu(), fullgraph=True)
    for shape in ((2, 3, 8, 9), (5, 3, 6, 4)):
        x = torch.randn(shape)
        for given in (x, x.to(memory_format=LAST)):
            want = layer(given)
            assert torch.equal(program.module()(given), want) and torch.equal(compiled(given), want.relu())
            assert compiled(given).stride() == want.stride()


# ---- the change of order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.float32])
def test_transpose(dtype, rng):
    for shape in (
        (1, 1, 1),
        (2, 16, 16),
        (3, 17, 33),
        (2, 15, 64),
        (1, 64, 15),
        (2, 48, 50),
        (0, 3, 4),
        (2, 0, 5),
        (2, 5, 0),
        (1, 600, 700),
    ):
        x = rng.integers(0, 128, shape).astype(dtype)
        out = np.empty((shape[0], shape[2], shape[1]), dtype)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out.fill(99)
            _core.transpose(x, out)
            assert np.array_equal(out, x.transpose(0, 2, 1))


def test_transpose_refuses():
    x, out = np.zeros((2, 3, 4), np.float32), np.empty((2, 4, 3), np.float32)
    frozen = out.copy()
    frozen.flags.writeable = False
    for error, says, args in (
        (DTypeError, "x must be", (x.astype(np.float64), out)),
        (DTypeError, "type of x", (x, out.astype(np.int32))),
        (ShapeError, r"\(2, 4, 3\)", (x, np.empty((2, 3, 4), np.float32))),
        (ShapeError, "3 dimensions", (x[0], out)),
        (LayoutError, "contiguous", (x[:, :, ::2], out[:, :2].copy())),
        (LayoutError, "contiguous", (x, np.empty((2, 3, 4), np.float32).transpose(0, 2, 1))),
        (LayoutError, "overlaps", (x, x.reshape(2, 4, 3))),
        (LayoutError, "read-only", (x, frozen)),
    ):
        with pytest.raises(error, match=says):
            _core.transpose(*args)
