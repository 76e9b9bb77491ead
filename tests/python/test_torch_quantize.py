"""qgemm.quantize_ and the configs it takes: what is swapped, what stays and says why, and that an error changes nothing."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import pytest

torch = pytest.importorskip("torch")

import qgemm  # noqa: E402
from qgemm import W4A8Dynamic, W8A8Dynamic, quantize_  # noqa: E402
from qgemm.errors import ConfigError, DTypeError, QuantizationError, UnsupportedOpError  # noqa: E402

nn = torch.nn
CONFIG = W8A8Dynamic()


@pytest.fixture(autouse=True)
def repeatable():
    torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.line = nn.Conv1d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.conv(x).flatten(2)
        return self.head(self.line(x).mean(2))


def kinds(model):
    return {name: type(m) for name, m in model.named_modules() if "qgemm" in type(m).__module__}


# ---- configs ------------------------------------------------------------------------------------------------------------------------


def test_configs_are_frozen_values():
    assert W8A8Dynamic() == W8A8Dynamic(per_token=True) != W8A8Dynamic(symmetric_activations=True)
    assert W4A8Dynamic() == W4A8Dynamic(group_size=32) and W4A8Dynamic(None) == W4A8Dynamic(0)
    assert (W8A8Dynamic().weight_bits, W4A8Dynamic().weight_bits) == (8, 4)
    assert len({W8A8Dynamic(), W8A8Dynamic(), W4A8Dynamic()}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        W8A8Dynamic().per_token = False


@pytest.mark.parametrize("group_size", [-32, 3, 30, 32.0, "32", True])
def test_group_sizes_that_mean_nothing(group_size):
    with pytest.raises(ConfigError, match="group_size.*multiple of 4"):
        W4A8Dynamic(group_size=group_size)


@pytest.mark.parametrize("field", ["per_token", "symmetric_activations"])
def test_flags_are_bools(field):
    for config in (W8A8Dynamic, W4A8Dynamic):
        with pytest.raises(ConfigError, match=field):
            config(**{field: 1})


# ---- what is swapped ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, W4A8Dynamic()], ids=repr)
def test_layers_are_swapped_in_place(config):
    model, x = Net().eval(), torch.randn(4, 3, 16, 16)
    want, reference = model(x).detach(), copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quantize_(model, config) is model
    assert kinds(model) == {"conv.0": qgemm.nn.Conv2d, "line": qgemm.nn.Conv1d, "head": qgemm.nn.Linear}
    got = model(x).detach()
    sqnr = 10 * torch.log10(want.pow(2).mean() / (got - want).pow(2).mean())
    assert sqnr > (30 if config.weight_bits == 8 else 10)
    assert not any(m.training for m in model.modules())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quantize_(model, config) is model and len(kinds(model)) == 3  # what is quantized stays
    again = quantize_(reference, config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), got.as_subclass(torch.Tensor))


def test_a_bare_layer_is_returned_new():
    lin = nn.Linear(4, 3)
    q = quantize_(lin, CONFIG)
    assert type(q) is qgemm.nn.Linear and type(lin) is nn.Linear


def test_filter():
    asked = []

    def keep_head(name, module):
        asked.append((name, type(module)))
        return name != "head"

    model = quantize_(Net().eval(), CONFIG, keep_head)
    assert asked == [("conv.0", nn.Conv2d), ("line", nn.Conv1d), ("head", nn.Linear)]
    assert type(model.head) is nn.Linear and len(kinds(model)) == 2


def test_shared_layers_stay_shared_and_tied_weights_tied():
    a, b = nn.Linear(6, 6), nn.Linear(6, 6)
    b.weight = a.weight
    embedding = nn.Embedding(6, 6)
    head = nn.Linear(6, 6, bias=False)
    head.weight = embedding.weight
    model = nn.ModuleDict({"first": a, "again": nn.ModuleList([a, nn.ReLU()]), "tied": b, "embedding": embedding, "head": head})
    quantize_(model, CONFIG)
    assert model["first"] is model["again"][0] and type(model["first"]) is qgemm.nn.Linear
    assert model["tied"].weight_q.data_ptr() == model["first"].weight_q.data_ptr() and model["tied"] is not model["first"]
    assert torch.equal(model["tied"].bias, b.bias) and not torch.equal(model["tied"].bias, model["first"].bias)
    assert type(model["embedding"]) is nn.Embedding
    x = torch.randn(3, 6)
    for key, lin in (("first", a), ("tied", b), ("head", head)):
        assert (model[key](x) - lin(x)).abs().max() < 0.1
    copied = copy.deepcopy(model)
    assert torch.equal(copied["tied"](x), model["tied"](x))


def test_parametrized_weights_are_read_as_they_are():
    net = nn.Sequential(*(nn.utils.parametrizations.weight_norm(nn.Linear(5, 5)) for _ in range(2)))
    x = torch.randn(3, 5)
    want = net(x)
    with pytest.warns(UserWarning, match="0.*remove_parametrizations"):
        quantize_(net, CONFIG)
    assert torch.equal(net(x), want)
    for layer in net:
        nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert len(kinds(quantize_(net, CONFIG))) == 2


# ---- what stays, and says why ---------------------------------------------------------------------------------------------------------


class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def test_what_stays_float_is_named_with_the_reason():
    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda *args: None)
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(4, 4),
            "mine": Scaled(4, 4),
            "lazy": nn.LazyLinear(4),
            "hooked": hooked,
            "normed": nn.utils.spectral_norm(nn.Linear(4, 4)),
            "up": nn.ConvTranspose3d(4, 4, 2),
            "recurrent": nn.LSTM(4, 4),
            "attention": nn.MultiheadAttention(4, 2),
        }
    )
    with pytest.warns(UserWarning) as caught:
        quantize_(model, CONFIG)
    (text,) = [str(w.message) for w in caught if "qgemm" in str(w.message)]
    for name, reason in {
        "mine": "subclass",
        "lazy": "run the model once",
        "hooked": "hooks",
        "normed": "remove",
        "up": "no integer layer",
        "recurrent": "no integer layer",
        "attention": "inside PyTorch",
        "attention.out_proj": "never calls it",
    }.items():
        (line,) = [row for row in text.splitlines() if row.startswith(f"  {name}: ")]
        assert reason in line
    assert "plain" not in text and list(kinds(model)) == ["plain"]


def test_a_model_with_nothing_to_quantize_says_so():
    with pytest.warns(UserWarning, match="no Linear, Conv or ConvTranspose"):
        quantize_(nn.Sequential(nn.ReLU()), CONFIG)


@pytest.mark.parametrize("stack", [False, True])
def test_transformer_encoder_leaves_the_fast_path(stack):
    """In eval mode PyTorch's fused path reads linear1.weight and never calls the layer."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    model = (nn.TransformerEncoder(layer, 2) if stack else layer).eval()
    x, mask = torch.randn(3, 5, 16), torch.zeros(3, 5, dtype=torch.bool)
    mask[:, 3:] = True
    with torch.no_grad():
        want = model(x, src_key_padding_mask=mask)
        with pytest.warns(UserWarning, match="self_attn"):
            quantize_(model, CONFIG)
        calls = []
        for m in model.modules():
            if isinstance(m, qgemm.nn.Linear):
                m.register_forward_hook(lambda m, *_: calls.append(m))
        got = model(x, src_key_padding_mask=mask)
    assert len(calls) == (4 if stack else 2)
    assert (got - want)[:, :3].abs().max() < 0.15


# ---- all or nothing -----------------------------------------------------------------------------------------------------------------


def test_an_error_leaves_the_model_as_it_was():
    model, x = Net().eval(), torch.randn(2, 3, 16, 16)
    want = model(x)
    layers = list(model.modules())
    with torch.no_grad():
        model.head.weight[3, 2] = torch.nan
    with pytest.raises(QuantizationError, match="head"):
        quantize_(model, CONFIG)
    assert all(a is b for a, b in zip(model.modules(), layers, strict=True))
    with torch.no_grad():
        model.head.weight[3, 2] = 0
    assert not kinds(model) and model(x).shape == want.shape
    with pytest.raises(DTypeError, match="line"):
        model.line.bfloat16()
        quantize_(model, CONFIG)
    assert not kinds(model)

    def stumble(name, module):
        if name == "head":
            raise RuntimeError("mine")
        return True

    with pytest.raises(RuntimeError, match="mine"):
        quantize_(model.float(), CONFIG, stumble)
    assert not kinds(model)


def test_wrong_arguments():
    for config in (None, W8A8Dynamic, "W8A8"):
        with pytest.raises(ConfigError, match="W8A8Dynamic"):
            quantize_(nn.Linear(2, 2), config)
    with pytest.raises(ConfigError, match="Module"):
        quantize_(lambda x: x, CONFIG)
    with pytest.raises(UnsupportedOpError, match="TorchScript"):
        quantize_(torch.jit.trace(nn.Linear(2, 2), torch.randn(1, 2)), CONFIG)
