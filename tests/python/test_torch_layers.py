"""qgemm.nn: the numbers, one node a layer under compile and export, state in and out, and what the layers refuse."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import qgemm  # noqa: E402
from qgemm import W4A8Dynamic, W8A8Dynamic, _core, numerics  # noqa: E402
from qgemm.errors import (  # noqa: E402
    ConfigError,
    DeviceError,
    DTypeError,
    PackedWeightError,
    QuantizationError,
    ShapeError,
    UnsupportedOpError,
)

nn = torch.nn
CONFIGS = {
    "W8A8": W8A8Dynamic(),
    "W8A8 per tensor": W8A8Dynamic(per_token=False),
    "W8A8 symmetric": W8A8Dynamic(symmetric_activations=True),
    "W4A8": W4A8Dynamic(),
    "W4A8 per channel": W4A8Dynamic(group_size=None),
}


@pytest.fixture(autouse=True)
def repeatable():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def sqnr(want, got):
    want = want.detach()
    return float(10 * torch.log10(want.pow(2).mean() / (got - want).pow(2).mean()))


def expected_linear(lin, config, x):
    scale, w = numerics.weight_encoding(lin.weight.detach().numpy(), config.weight_bits, group_size=config.group_size)
    bias = None if lin.bias is None else lin.bias.detach().numpy()
    rows = x.reshape(-1, lin.in_features).numpy()
    y = numerics.linear_dynamic(rows, w, scale, 0, bias, config.group_size, config.per_token, config.symmetric_activations)
    return torch.from_numpy(y).reshape(*x.shape[:-1], lin.out_features)


def pads(module):
    if module.padding == "valid":
        return (0, 0, 0, 0)
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return (*(n // 2 for n in total), *(n - n // 2 for n in total))
    return (*module.padding, *module.padding)


def expected_conv(conv, config, x):
    """NCHW in and out; zeros padding."""
    scale, w = numerics.weight_encoding(conv.weight.detach().numpy(), config.weight_bits)
    bias = None if conv.bias is None else conv.bias.detach().numpy()
    nhwc = np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())
    (x_scale,), (zero,) = numerics.dynamic_encoding(nhwc.reshape(1, -1), False, config.symmetric_activations)
    q = numerics.quantize(nhwc, x_scale, zero, 0, 255).astype(np.uint8)
    geometry = {"stride": conv.stride, "padding": pads(conv), "dilation": conv.dilation, "groups": conv.groups}
    y = numerics.conv2d(q, w, x_scale, int(zero), scale, 0, bias, **geometry)
    return torch.from_numpy(y).permute(0, 3, 1, 2)


# ---- the numbers --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(config, bias, isa):
    lin = nn.Linear(77, 33, bias)
    q = qgemm.nn.Linear.from_float(lin, config)
    for shape in ((5, 77), (77,), (2, 3, 77), (0, 77), (2, 0, 77), (1, 1, 1, 77)):
        x = torch.randn(shape)
        y = q(x)
        assert torch.equal(y, expected_linear(lin, config, x)) and y.dtype == torch.float32 and not y.requires_grad
        if x.numel():
            assert sqnr(lin(x), y) > (35 if config.weight_bits == 8 else 16)
    x = torch.randn(77, 5).t()
    assert torch.equal(q(x), q(x.contiguous()))


def test_rows_do_not_influence_each_other():
    q = qgemm.nn.Linear.from_float(nn.Linear(64, 48), W8A8Dynamic())
    x = torch.randn(9, 64)
    x[3] *= 1000
    assert torch.equal(q(x), torch.cat([q(row[None]) for row in x]))


CONVS = {
    "3x3": nn.Conv2d(5, 7, 3, padding=1),
    "no bias, strided, dilated": nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), bias=False),
    "groups": nn.Conv2d(6, 4, 3, groups=2),
    "depthwise": nn.Conv2d(19, 19, 3, 2, 1, groups=19),
    "same": nn.Conv2d(3, 5, (4, 3), padding="same"),
    "valid": nn.Conv2d(3, 5, 2, padding="valid"),
    "pointwise": nn.Conv2d(16, 33, 1),
}


@pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS)
@pytest.mark.parametrize("config", [W8A8Dynamic(), W8A8Dynamic(symmetric_activations=True), W4A8Dynamic()], ids=repr)
def test_conv2d(conv, config, isa):
    q = qgemm.nn.Conv2d.from_float(conv, config)
    x = torch.randn(2, conv.in_channels, 9, 8)
    want = expected_conv(conv, config, x)
    y, last = q(x), q(x.to(memory_format=torch.channels_last))
    assert torch.equal(y, want) and y.is_contiguous()
    assert torch.equal(last, want) and last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(q(x[0]), expected_conv(conv, config, x[:1])[0])
    assert q(x[:0]).shape == (0, *want.shape[1:])
    assert sqnr(conv(x), y) > (33 if config.weight_bits == 8 else 12)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(mode):
    conv = nn.Conv2d(3, 5, 3, padding=(2, 1), padding_mode=mode)
    q = qgemm.nn.Conv2d.from_float(conv, W8A8Dynamic())
    x = torch.randn(2, 3, 6, 7)
    padded = nn.functional.pad(x, (1, 1, 2, 2), mode=mode)
    bare = nn.Conv2d(3, 5, 3)
    bare.load_state_dict(conv.state_dict())
    assert torch.equal(q(x), expected_conv(bare, W8A8Dynamic(), padded))
    assert f"padding_mode={mode}" in repr(q)
    line = nn.Conv1d(3, 5, 3, padding=2, padding_mode=mode)
    assert sqnr(line(x[:, :, 0]), qgemm.nn.Conv1d.from_float(line, W8A8Dynamic())(x[:, :, 0])) > 33


def test_conv1d():
    for conv in (nn.Conv1d(4, 6, 5, 2, 3, 2), nn.Conv1d(8, 8, 3, padding="same", groups=8), nn.Conv1d(4, 5, 1, bias=False)):
        for config in (W8A8Dynamic(), W4A8Dynamic()):
            q = qgemm.nn.Conv1d.from_float(conv, config)
            x = torch.randn(3, conv.in_channels, 31)
            image = nn.Conv2d(conv.in_channels, conv.out_channels, (1, conv.kernel_size[0]), groups=conv.groups, bias=conv.bias is not None)
            image.stride, image.dilation = (1, *conv.stride), (1, *conv.dilation)
            image.padding = conv.padding if isinstance(conv.padding, str) else (0, *conv.padding)
            image.load_state_dict({k: v[:, :, None] if k == "weight" else v for k, v in conv.state_dict().items()})
            y = q(x)
            assert torch.equal(y, expected_conv(image, config, x[:, :, None])[:, :, 0]) and y.is_contiguous()
            assert torch.equal(q(x[1]), q(x[1:2])[0])
            assert torch.equal(q(x.transpose(1, 2).contiguous().transpose(1, 2)), y)


def test_static_input_encoding():
    lin, conv = nn.Linear(40, 9), nn.Conv2d(3, 4, 3, padding=1)
    x, image = torch.rand(6, 40) * 5 - 1, torch.rand(2, 3, 8, 8) * 5 - 1
    scale, zero = numerics.activation_encoding(-1, 4)
    q = qgemm.nn.Linear.from_float(lin, W8A8Dynamic(), input_scale=float(scale), input_zero_point=zero)
    w_scale, w = numerics.weight_encoding(lin.weight.detach().numpy())
    xq = numerics.quantize(x.numpy(), scale, zero, 0, 255).astype(np.uint8)
    assert np.array_equal(q(x).numpy(), numerics.linear(xq, w, scale, zero, w_scale, 0, lin.bias.detach().numpy()))
    c = qgemm.nn.Conv2d.from_float(conv, W8A8Dynamic(), input_scale=float(scale), input_zero_point=zero)
    assert sqnr(conv(image), c(image)) > 33 and c(image).is_contiguous()
    assert c(image.to(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)
    assert "static" in repr(q)
    fresh = qgemm.nn.Linear(40, 9)
    fresh.load_state_dict(q.state_dict())  # the encoding comes with the state
    assert torch.equal(fresh(x), q(x))
    for bad in ({"input_scale": 0.1}, {"input_scale": 0.1, "input_zero_point": 3.5}):
        with pytest.raises(ConfigError):
            qgemm.nn.Linear.from_float(lin, W8A8Dynamic(), **bad)
    for bad in ({"input_scale": 0.0, "input_zero_point": 3}, {"input_scale": 0.1, "input_zero_point": 256}):
        with pytest.raises(QuantizationError):
            qgemm.nn.Linear.from_float(lin, W8A8Dynamic(), **bad)


def test_weights_are_aimets():
    """The integers and scales of a simulation's weight quantizer, asked for directly."""
    aimet = pytest.importorskip("aimet_torch.quantization.affine", reason="aimet-torch is not installed")
    lin = nn.Linear(64, 12)
    with torch.no_grad():
        lin.weight[3] = 0
        lin.weight[4] = -lin.weight[4].abs()
    for bits in (8, 4):
        quantizer = aimet.Quantize((12, 1), bits, symmetric=True)
        with torch.no_grad(), quantizer.compute_encodings():
            quantizer(lin.weight)
        with torch.no_grad():
            want = quantizer(lin.weight)
        q = qgemm.nn.Linear.from_float(lin, W8A8Dynamic() if bits == 8 else W4A8Dynamic(group_size=0))
        assert torch.equal(q.weight_scale, quantizer.get_scale().flatten())
        assert torch.equal(q.int_weight().float(), want.as_subclass(torch.Tensor))
        assert torch.equal(q.dequantize_weight(), want.dequantize().as_subclass(torch.Tensor))
        assert q.int_weight()[4].min() == -(2 ** (bits - 1))  # the whole grid is used


def test_grouped_int4():
    lin = nn.Linear(70, 5)  # the last group has 6
    q = qgemm.nn.Linear.from_float(lin, W4A8Dynamic(group_size=32))
    assert q.weight_q.shape == (5, 35) and q.weight_q.dtype == torch.uint8 and q.weight_scale.shape == (5, 3)
    assert q.int_weight().abs().max() == 8 and sqnr(lin.weight, q.dequantize_weight()) > 18


# ---- compile, export ----------------------------------------------------------------------------------------------------------------

LAYERS = {
    "linear": (qgemm.nn.Linear, nn.Linear(16, 12), (6, 16), "linear_dynamic"),
    "conv2d": (qgemm.nn.Conv2d, nn.Conv2d(3, 5, 3, padding=1), (6, 3, 9, 8), "conv2d_dynamic"),
    "conv1d": (qgemm.nn.Conv1d, nn.Conv1d(3, 5, 3, padding=1), (6, 3, 9), "conv1d_dynamic"),
}


def ops_of(graph):
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(("cls", "module", "shape", "op"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_compiled_layer_is_one_node(cls, module, shape, op, requires_grad):
    from torch._dynamo.backends.common import aot_autograd

    torch._dynamo.reset()
    graphs = []

    def keep(graph_module, _):
        graphs.append(ops_of(graph_module.graph))
        return graph_module.forward

    q = cls.from_float(module, W8A8Dynamic()).eval()
    compiled = torch.compile(q, fullgraph=True, dynamic=False, backend=aot_autograd(fw_compiler=keep))
    x = torch.randn(shape, requires_grad=requires_grad)
    y = compiled(x)
    assert torch.equal(y, q(x)) and y.stride() == q(x).stride() and not y.requires_grad
    assert graphs == [[f"qgemm.{op}.default"]]


@pytest.mark.parametrize(("cls", "module", "shape", "op"), LAYERS.values(), ids=LAYERS)
def test_exported_layer_is_one_node_for_any_batch(cls, module, shape, op, tmp_path):
    q = cls.from_float(module, W8A8Dynamic()).eval()
    x = torch.randn(shape)
    program = torch.export.export(q, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert ops_of(program.graph) == [f"qgemm.{op}.default"]
    torch.export.save(program, tmp_path / "layer.pt2")
    again = torch.export.load(tmp_path / "layer.pt2").module()
    for batch in (6, 1, 11):
        x = torch.randn(batch, *shape[1:])
        assert torch.equal(program.module()(x), q(x)) and torch.equal(again(x), q(x))


def test_dynamic_batch_compiles_once():
    torch._dynamo.reset()
    net = qgemm.quantize_(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval(), W8A8Dynamic())
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(net, fullgraph=True, backend=counter)
    for batch in (4, 7, 9):
        x = torch.randn(batch, 3, 8, 8)
        torch._dynamo.mark_dynamic(x, 0)
        assert torch.equal(compiled(x), net(x))
    assert counter.frame_count == 1


def test_inductor_gives_the_same_bits():
    torch._dynamo.reset()
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))
    net = qgemm.quantize_(net.eval(), W8A8Dynamic(), filter=lambda name, m: True)
    pieces = nn.Sequential(net[0], net[1])  # float averages may be summed in another order: compare up to there
    compiled = torch.compile(pieces, fullgraph=True)
    for x in (torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)):
        assert torch.equal(compiled(x), pieces(x))


# ---- state --------------------------------------------------------------------------------------------------------------------------


def every_layer():
    for config in (W8A8Dynamic(), W4A8Dynamic(), W4A8Dynamic(0, False, True)):
        yield qgemm.nn.Linear, qgemm.nn.Linear.from_float(nn.Linear(37, 11), config), torch.randn(4, 37), lambda c=config: (37, 11, True, c)
        conv = qgemm.nn.Conv2d.from_float(nn.Conv2d(3, 5, 3, bias=False), config)
        yield qgemm.nn.Conv2d, conv, torch.randn(2, 3, 6, 7), lambda c=config: (3, 5, 3, 1, 0, 1, 1, False, "zeros", c)
        line = qgemm.nn.Conv1d.from_float(nn.Conv1d(4, 8, 3, groups=4), config)
        yield qgemm.nn.Conv1d, line, torch.randn(2, 4, 9), lambda c=config: (4, 8, 3, 1, 0, 1, 4, True, "zeros", c)


def test_state_dict_holds_canonical_integers_and_scales():
    for cls, layer, x, args in every_layer():
        state = layer.state_dict()
        assert set(state) == {"weight_q", "weight_scale"} | ({"bias"} if layer.bias is not None else set())
        assert state["weight_q"].dtype == (torch.int8 if layer.weight_bits == 8 else torch.uint8)
        if layer.weight_bits == 4:
            k = int(np.prod(layer.weight_shape[1:]))
            values = numerics.unpack_int4(state["weight_q"].numpy(), k, True).reshape(layer.weight_shape)
            assert np.array_equal(values, layer.int_weight().numpy())
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        fresh = cls(*args())
        assert not torch.equal(fresh(x), layer(x))
        fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
        assert torch.equal(fresh(x), layer(x)) and repr(fresh) == repr(layer)
        assigned = cls(*args())
        assigned.load_state_dict(state, assign=True)
        assert torch.equal(assigned(x), layer(x))


def test_copies_are_equal_and_independent():
    for _, layer, x, _ in every_layer():
        want = layer(x)
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        copies = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)
        for other in copies:
            assert torch.equal(other(x), want) and repr(other) == repr(layer)
            assert other.packed.data_ptr() != layer.packed.data_ptr()
        assert len(pickle.dumps(layer)) < len(pickle.dumps({**layer.state_dict()})) + 6000  # the packed form is not in it
        layer.load_state_dict({k: torch.zeros_like(v) if k != "weight_scale" else v for k, v in layer.state_dict().items()})
        assert (layer(x) == 0).all() and torch.equal(copies[0](x), want)


def test_weight_zero_point_comes_with_the_state():
    layer = qgemm.nn.Linear.from_float(nn.Linear(24, 6), W8A8Dynamic())
    zero = torch.tensor([3, -2, 0, 1, 5, -7], dtype=torch.int32)
    x = torch.randn(5, 24)
    layer.load_state_dict({**layer.state_dict(), "weight_zero_point": zero})
    want = numerics.linear_dynamic(x.numpy(), layer.weight_q.numpy(), layer.weight_scale.numpy(), zero.numpy(), layer.bias.numpy())
    assert np.array_equal(layer(x).numpy(), want)
    assert sqnr(layer(x), nn.functional.linear(x, layer.dequantize_weight(), layer.bias)) > 35


def test_a_state_that_does_not_fit_is_named_and_changes_nothing():
    layer = qgemm.nn.Linear.from_float(nn.Linear(24, 6), W8A8Dynamic())
    x = torch.randn(5, 24)
    before, good = layer(x), layer.state_dict()
    w4 = qgemm.nn.Linear.from_float(nn.Linear(24, 6), W4A8Dynamic()).state_dict()
    bad = {
        "config that it was saved from": w4,
        "float layer's": nn.Linear(24, 6).state_dict(),
        "weight_scale is torch.float16": {**good, "weight_scale": good["weight_scale"].half()},
        "scale": {**good, "weight_scale": good["weight_scale"] * torch.nan},
        "weight_q is torch.int8 .6, 20. and": {**good, "weight_q": good["weight_q"][:, :20]},
        "Unexpected": {**good, "packed": layer.packed},
        "Missing": {k: v for k, v in good.items() if k != "bias"},
    }
    for says, state in bad.items():
        state = {k: v.clone() for k, v in state.items()}
        with pytest.raises(RuntimeError, match=says):
            layer.load_state_dict(state)
        assert torch.equal(layer(x), before), says


def test_moving_and_casting():
    layer = qgemm.nn.Linear.from_float(nn.Linear(24, 6), W8A8Dynamic(), name="encoder.fc")
    x = torch.randn(5, 24)
    before = layer(x)
    for cast in (lambda m: m.half(), lambda m: m.double(), lambda m: m.to(torch.bfloat16), lambda m: m.float()):
        assert torch.equal(cast(layer)(x), before) and layer.weight_scale.dtype == torch.float32
    for dtype in (torch.half, torch.double, torch.bfloat16):
        with pytest.raises(DTypeError, match="encoder.fc.*float32"):
            layer(x.to(dtype))
    meta = copy.deepcopy(layer).to("meta")
    with pytest.raises(DeviceError, match="encoder.fc.*meta"):
        meta(x)
    assert meta(x.to("meta")).device.type == "meta"
    empty = meta.to_empty(device="cpu")
    with pytest.raises(PackedWeightError):
        empty(x)
    empty.load_state_dict(layer.state_dict())
    assert torch.equal(empty(x), before)
    with torch.device("meta"):
        skeleton = qgemm.nn.Linear(24, 6)
    skeleton.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(skeleton(x), before)


# ---- what is refused ----------------------------------------------------------------------------------------------------------------


def test_wrong_inputs_name_the_layer():
    lin = qgemm.nn.Linear.from_float(nn.Linear(24, 6), W8A8Dynamic(), name="head")
    conv = qgemm.nn.Conv2d.from_float(nn.Conv2d(3, 4, 3), W8A8Dynamic(), name="stem")
    for layer, x in (
        (lin, torch.randn(5, 23)),
        (conv, torch.randn(2, 4, 6, 6)),
        (conv, torch.randn(6, 6)),
        (conv, torch.randn(1, 3, 2, 2)),
    ):
        with pytest.raises(ShapeError, match=layer.name):
            layer(x)
    with pytest.raises(QuantizationError, match="head"):
        lin(torch.full((2, 24), torch.inf))


def test_training_is_refused_and_evaluation_has_no_grad():
    layer = qgemm.nn.Linear.from_float(nn.Linear(24, 6), W8A8Dynamic())
    x = torch.randn(5, 24, requires_grad=True)
    with pytest.raises(UnsupportedOpError, match="backward.*eval"):
        layer(x)
    with torch.no_grad():
        want = layer(x)
    assert torch.equal(layer(x.detach()), want)
    layer.eval()
    assert torch.equal(layer(x), want) and not layer(x).requires_grad
    with torch.inference_mode():
        assert torch.equal(layer(x), want)
    assert list(layer.parameters()) == []


def test_from_float_refuses():
    make, config = qgemm.nn.Linear.from_float, W8A8Dynamic()
    for error, says, call in (
        (ConfigError, "Conv2d", lambda: make(nn.Conv2d(1, 1, 1), config)),
        (ConfigError, "add parentheses", lambda: make(nn.Linear(4, 4), W8A8Dynamic)),
        (ConfigError, "W8A8Dynamic", lambda: make(nn.Linear(4, 4), None)),
        (ConfigError, "lazy", lambda: make(nn.LazyLinear(4), config)),
        (DTypeError, "fc.*bfloat16.*float", lambda: make(nn.Linear(4, 4).bfloat16(), config, name="fc")),
        (DeviceError, "fc.*meta.*cpu", lambda: make(nn.Linear(4, 4, device="meta"), config, name="fc")),
    ):
        with pytest.raises(error, match=says):
            call()
    broken = nn.Linear(4, 4)
    with torch.no_grad():
        broken.weight[2, 1] = torch.nan
    with pytest.raises(QuantizationError, match="fc"):
        make(broken, config, name="fc")
    for kwargs in (
        {"groups": 2},
        {"padding_mode": "mirror"},
        {"stride": 0},
        {"padding": "same", "stride": 2},
        {"padding": -1},
        {"padding": "full"},
    ):
        with pytest.raises(ConfigError, match="Conv2d"):
            qgemm.nn.Conv2d(3, 4, 3, **kwargs)


def test_a_channel_that_could_leave_int32_is_refused_by_name():
    wide = nn.Linear(70000, 1)
    with torch.no_grad():
        wide.weight.fill_(1.0)
    with pytest.raises(qgemm.errors.AccumulatorOverflowError, match="fc"):
        qgemm.nn.Linear.from_float(wide, W8A8Dynamic(), name="fc")


def test_repr_tells_what_runs():
    text = repr(qgemm.nn.Linear.from_float(nn.Linear(24, 6), W4A8Dynamic(group_size=8)))
    kernel = _core.packed_info(_core.pack_linear(np.zeros((6, 24), np.int8), np.ones(6, np.float32)))["kernel"]
    for part in ("in_features=24", "out_features=6", "W4A8", "groups of 8", "per token", kernel):
        assert part in text
    assert "groups=4" in repr(qgemm.nn.Conv2d(4, 4, 3, groups=4))
