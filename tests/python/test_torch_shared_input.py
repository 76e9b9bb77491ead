"""qgemm.nn.SharedInputLinear: the bits of separate layers, one product under compile and export, state in and out, refusals."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest

torch = pytest.importorskip("torch")

import qgemm  # noqa: E402
from qgemm import W4A8Dynamic, W8A8Dynamic  # noqa: E402
from qgemm.errors import (  # noqa: E402
    AccumulatorOverflowError,
    ConfigError,
    DTypeError,
    QuantizationError,
    ShapeError,
    UnsupportedOpError,
)

nn = torch.nn
Shared = qgemm.nn.SharedInputLinear
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


def projections(k=72):
    """Sizes off the register tiles, and one layer without a bias."""
    return [nn.Linear(k, 65), nn.Linear(k, 7, bias=False), nn.Linear(k, 32)]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_bits_of_separate_layers(config, isa):
    layers = projections()
    shared = Shared.from_float(layers, config)
    separate = [qgemm.nn.Linear.from_float(layer, config) for layer in layers]
    for shape in ((5, 72), (72,), (2, 3, 72), (0, 72), (1, 1, 1, 72), (130, 72)):
        x = torch.randn(shape)
        got = shared(x)
        assert type(got) is tuple and len(got) == 3
        for y, one in zip(got, separate, strict=True):
            assert torch.equal(y, one(x)) and y.dtype == torch.float32 and not y.requires_grad
        assert len({y.untyped_storage().data_ptr() for y in got}) == 1  # one product
    assert torch.equal(shared(torch.ones(5, 144)[:, ::2])[2], separate[2](torch.ones(5, 72)))
    heads = shared(torch.randn(2, 6, 72))[2].view(2, 6, 4, 8).transpose(1, 2)
    assert heads.shape == (2, 4, 6, 8)


def test_static_input_encoding():
    layers = projections()
    encoding = {"input_scale": 0.03, "input_zero_point": 120}
    shared = Shared.from_float(layers, W8A8Dynamic(), **encoding)
    x = torch.randn(6, 72)
    for y, layer in zip(shared(x), layers, strict=True):
        assert torch.equal(y, qgemm.nn.Linear.from_float(layer, W8A8Dynamic(), **encoding)(x))
    assert "static" in repr(shared)


def test_without_biases_there_is_none():
    shared = Shared.from_float([nn.Linear(8, 3, bias=False), nn.Linear(8, 5, bias=False)], W8A8Dynamic())
    assert shared.bias is None and set(shared.state_dict()) == {"weight_q", "weight_scale"}


# ---- compile, export ----------------------------------------------------------------------------------------------------------------


def ops_of(graph):
    return [str(node.target) for node in graph.nodes if node.op == "call_function" and "getitem" not in str(node.target)]


def test_compiles_to_one_product_and_a_split():
    from torch._dynamo.backends.common import aot_autograd

    torch._dynamo.reset()
    graphs = []

    def keep(graph_module, _):
        graphs.append(ops_of(graph_module.graph))
        return graph_module.forward

    shared = Shared.from_float(projections(), W8A8Dynamic()).eval()
    compiled = torch.compile(shared, fullgraph=True, dynamic=False, backend=aot_autograd(fw_compiler=keep))
    for requires_grad in (False, True):
        x = torch.randn(6, 72, requires_grad=requires_grad)
        for y, want in zip(compiled(x), shared(x), strict=True):
            assert torch.equal(y, want) and y.stride() == want.stride()
    assert graphs and all(g == ["qgemm.linear_dynamic.default", "aten.split_with_sizes.default"] for g in graphs)
    torch._dynamo.reset()
    inductor = torch.compile(lambda x: [y * 2 for y in shared(x)], fullgraph=True)
    x = torch.randn(6, 72)
    assert all(torch.equal(y, 2 * want) for y, want in zip(inductor(x), shared(x), strict=True))


def test_exports_for_any_batch(tmp_path):
    shared = Shared.from_float(projections(), W4A8Dynamic()).eval()
    program = torch.export.export(shared, (torch.randn(6, 72),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert ops_of(program.graph) == ["qgemm.linear_dynamic.default", "aten.split_with_sizes.default"]
    torch.export.save(program, tmp_path / "shared.pt2")
    again = torch.export.load(tmp_path / "shared.pt2").module()
    for batch in (6, 1, 11):
        x = torch.randn(batch, 72)
        for runs in (program.module(), again):
            assert all(torch.equal(a, b) for a, b in zip(runs(x), shared(x), strict=True))


# ---- state --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_state_and_copies(config):
    layers, x = projections(), torch.randn(4, 72)
    shared = Shared.from_float(layers, config, name="attention.qkv")
    want = torch.cat(shared(x), -1)
    separate = [qgemm.nn.Linear.from_float(layer, config) for layer in layers]
    for key in ("weight_q", "weight_scale"):  # the layers' own, joined
        assert torch.equal(shared.state_dict()[key], torch.cat([layer.state_dict()[key] for layer in separate]))
    assert torch.equal(shared.int_weight(), torch.cat([layer.int_weight() for layer in separate]))
    file = io.BytesIO()
    torch.save(shared.state_dict(), file)
    file.seek(0)
    fresh = Shared(72, [65, 7, 32], config=config)
    assert not torch.equal(torch.cat(fresh(x), -1), want)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for other in (fresh, copy.deepcopy(shared), pickle.loads(pickle.dumps(shared))):
        assert torch.equal(torch.cat(other(x), -1), want) and repr(other) == repr(shared)
        assert other.packed.data_ptr() != shared.packed.data_ptr()
    assert torch.equal(torch.cat(shared.half()(x), -1), want)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.qkv = None

    def forward(self, x):
        q, k, v = self.qkv(x) if self.qkv is not None else (self.q(x), self.k(x), self.v(x))
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v))


def test_quantize_leaves_it_as_it_is():
    separate = Attention().eval()
    joined = copy.deepcopy(separate)
    joined.qkv = Shared.from_float([joined.q, joined.k, joined.v], W8A8Dynamic())
    del joined.q, joined.k, joined.v
    before = joined.qkv
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qgemm.quantize_(joined, W8A8Dynamic())
        qgemm.quantize_(nn.Sequential(before), W8A8Dynamic())  # nothing float is left: not a model without layers
    assert joined.qkv is before and type(joined.out) is qgemm.nn.Linear
    x = torch.randn(2, 5, 16)
    assert torch.equal(joined(x), qgemm.quantize_(separate, W8A8Dynamic())(x))


# ---- what is refused ----------------------------------------------------------------------------------------------------------------


def test_refusals():
    make, config = Shared.from_float, W8A8Dynamic()
    broken, wide = nn.Linear(8, 3), nn.Linear(70000, 1)
    with torch.no_grad():
        broken.weight[1, 2] = torch.nan
        wide.weight.fill_(1.0)
    for error, says, call in (
        (ConfigError, "at least one", lambda: make([], config)),
        (ConfigError, r"\[q, k, v\]", lambda: make(nn.Linear(8, 3), config)),
        (ConfigError, "not torch.nn.modules.conv.Conv1d", lambda: make([nn.Linear(8, 3), nn.Conv1d(8, 3, 1)], config)),
        (ConfigError, "add parentheses", lambda: make([nn.Linear(8, 3)], W8A8Dynamic)),
        (ConfigError, "out_features is 8", lambda: Shared(8, 8)),
        (ConfigError, "out_features is", lambda: Shared(8, [3, -1])),
        (ShapeError, "one in_features, got 8, 9", lambda: make([nn.Linear(8, 3), nn.Linear(9, 3)], config)),
        (DTypeError, r"qkv\[1\].*float16", lambda: make([nn.Linear(8, 3), nn.Linear(8, 3).half()], config, name="qkv")),
        (QuantizationError, r"qkv\[1\]", lambda: make([nn.Linear(8, 3), broken], config, name="qkv")),
        (AccumulatorOverflowError, r"qkv\[0\]", lambda: make([wide], config, name="qkv")),
    ):
        with pytest.raises(error, match=says):
            call()
    shared = make(projections(), config, name="qkv")
    with pytest.raises(ShapeError, match="qkv.*K = 71"):
        shared(torch.randn(2, 71))
    with pytest.raises(DTypeError, match="qkv.*float32"):
        shared(torch.randn(2, 72).double())
    with pytest.raises(UnsupportedOpError, match="backward"):
        shared(torch.randn(2, 72, requires_grad=True))
    with pytest.raises(RuntimeError, match="config that it was saved from"):
        shared.load_state_dict(make(projections(), W4A8Dynamic()).state_dict())
    assert "out_features=(65, 7, 32)" in repr(shared)
