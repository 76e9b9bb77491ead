"""Transformers from torch to one native program: what becomes of their parts, and that it computes what the network does."""

from __future__ import annotations

from collections import Counter
from time import process_time

import numpy as np
import pytest

import qgemm

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from torch import nn  # noqa: E402

from decoder import Decoder, Norm  # noqa: E402


def sqnr(got, want) -> float:
    return float(10 * torch.log10(want.square().sum() / (got - want).square().sum()))


def is_native(program) -> bool:
    return bool(program._compiled) and all(c.native for c in program._compiled.values())


def rms_norm(width):
    return nn.RMSNorm(width, 1e-5)


@pytest.mark.parametrize("norm", [Norm, rms_norm])
def test_a_decoder(norm):
    torch.manual_seed(0)
    model = Decoder(norm=norm).eval()
    batches = [torch.randint(0, 50, (2, 16)) for _ in range(4)]
    with torch.no_grad():
        want = model(batches[0])
    floats = qgemm.from_torch(model, batches[0])
    assert sqnr(floats(batches[0]), want) > 110 and is_native(floats)
    program = qgemm.quantize(model, batches)
    assert sqnr(program(batches[0]), want) > 28 and is_native(program)
    assert torch.equal(program(batches[0][:1]), program(batches[0])[:1])

    rows = qgemm.report(program)
    count = Counter((r.op, r.kernel, r.scheme) for r in rows)
    assert count["Linear", "linear", "W8A8"] == 15 and count["RMSNormalization", "norm", "u8"] == 5
    assert count["MatMul", "matmul", "A8A8"] == 4 and count["Softmax", "softmax", "u8"] == 2 and count["Mul", "mul", "u8"] == 2
    # What is left in float: the rotation by cosines and sines, which have no encoding, and the mask.
    assert {r.op for r in rows if r.scheme == "float"} <= {"Mul", "Expand", "Trilu", "Where", "Slice", "Cos", "Sin"}


def test_a_token_sees_no_later_one():
    torch.manual_seed(0)
    model = Decoder().eval()
    program = qgemm.quantize(model, [torch.randint(0, 50, (2, 16)) for _ in range(4)])
    a = torch.randint(0, 50, (1, 16))
    b = a.clone()
    b[0, 9:] = (b[0, 9:] + 1) % 50
    assert torch.equal(program(a)[0, :9], program(b)[0, :9]) and not torch.equal(program(a)[0, 9:], program(b)[0, 9:])


class Encoder(nn.Module):
    """Ids and a mask of padding [B, S], both sizes open -> [B, S, width]. GELU as ``form`` writes it."""

    def __init__(self, form: str = "none", width: int = 32, heads: int = 4, places: int = 64):
        super().__init__()
        self.words, self.places = nn.Embedding(40, width), nn.Embedding(places, width)
        self.heads, self.form = heads, form
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, ids, keep):
        b, n = ids.shape
        x = self.words(ids) + self.places(torch.arange(n))
        q, k, v = (t.view(b, n, self.heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(2, 3) / (q.shape[-1] ** 0.5)
        scores = scores + (1 - keep.float())[:, None, None] * torch.finfo(torch.float32).min
        x = self.norm_in(x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1)))
        h = self.up(x)
        if self.form == "erf":
            h = h * 0.5 * (1 + torch.erf(h / 2**0.5))
        elif self.form == "tanh written out":
            h = 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)))
        else:
            h = nn.functional.gelu(h, approximate=self.form)
        return self.norm_out(x + self.down(h))


def exported(model, *example) -> str:
    import io

    file = io.BytesIO()
    sizes = {0: "batch", 1: "length"}
    torch.onnx.export(
        model, example, file, dynamo=False, opset_version=17, input_names=["ids", "keep"], output_names=["y"],
        dynamic_axes={"ids": sizes, "keep": sizes, "y": sizes},
    )  # fmt: skip
    return file.getvalue()


def test_each_shape_is_compiled_once_and_computes_what_torch_does(tmp_path):
    """Batch and length are open: a program a combination, kept; padding changes nothing of what is kept."""
    torch.manual_seed(0)
    model = Encoder().eval()
    path = tmp_path / "encoder.onnx"
    path.write_bytes(exported(model, torch.randint(0, 40, (2, 9)), torch.ones(2, 9, dtype=torch.int64)))
    program = qgemm.load(path)
    shapes = [(1, 5), (2, 9), (3, 9), (1, 31), (2, 9), (1, 5)]
    for b, n in shapes:
        ids, keep = torch.randint(0, 40, (b, n)), torch.ones(b, n, dtype=torch.int64)
        keep[:, n - 2 :] = 0
        with torch.no_grad():
            want = model(ids, keep)
        got = program(ids, keep)
        assert got.shape == want.shape and sqnr(got, want) > 100
        other = ids.clone()
        other[:, n - 2 :] = 7
        assert torch.equal(program(other, keep)[:, : n - 2], got[:, : n - 2])
    assert len(program._compiled) == len(set(shapes)) and is_native(program)


class Ids(nn.Module):
    """An encoder of ids alone, without padding."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder(places=128)

    def forward(self, ids):
        return self.encoder(ids, torch.ones_like(ids))


def test_a_quantized_encoder_takes_17_then_128_tokens_and_1_then_3_sequences(tmp_path):
    """From AIMET's files, both sizes open: each combination is planned once, in memory that grows as its tokens do."""
    pytest.importorskip("aimet_torch")
    from aimet_networks import quiet, simulate

    torch.manual_seed(0)
    batches = [torch.randint(0, 40, (2, 40)) for _ in range(2)]
    sim = simulate(Ids(), batches, prepare=False, fold=False)
    sizes, path = {0: "batch", 1: "length"}, str(tmp_path / "encoder.onnx")
    with quiet():
        sim.onnx.export(
            batches[0], path, encoding_version="2.0.0", dynamo=False, export_int32_bias=False, input_names=["ids"], output_names=["y"],
            dynamic_axes={"ids": sizes, "y": sizes},
        )  # fmt: skip
    program, arenas = qgemm.load(path, encodings=path.replace(".onnx", ".encodings")), {}
    assert sum(r.scheme == "W8A8" for r in qgemm.report(program)) >= 2
    for b, n in ((1, 17), (1, 128), (3, 128), (3, 17), (1, 17)):
        ids = torch.randint(0, 40, (b, n))
        with torch.no_grad():
            want = sim.model(ids).as_subclass(torch.Tensor)
        started = process_time()
        got = program(ids)
        assert process_time() - started < 5 and got.shape == want.shape and sqnr(got, want) > 30
        assert torch.equal(program(ids[-1:]), got[-1:])
        arenas[b, n], minimum, _ = program._compiled[next(k for k in program._compiled if k[0][0] == (b, n))].core.memory()
        assert arenas[b, n] <= 1.2 * minimum
    assert set(k[0][0] for k in program._compiled) == set(arenas) and is_native(program)
    assert arenas[1, 17] < arenas[1, 128] < arenas[3, 128] <= 3.1 * arenas[1, 128]
    assert program.memory["arena_bytes"] == arenas[3, 128]


@pytest.mark.parametrize("form", ["none", "tanh", "erf", "tanh written out"])
def test_gelu_is_a_table_however_it_is_written(form):
    torch.manual_seed(0)
    model = Encoder(form).eval()
    keep = torch.ones(2, 9, dtype=torch.int64)
    keep[0, 6:] = 0
    batches = [(torch.randint(0, 40, (2, 9)), keep) for _ in range(3)]
    program = qgemm.quantize(model, batches)
    with torch.no_grad():
        want = model(*batches[0])
    assert sqnr(program(*batches[0]), want) > 25 and is_native(program)
    rows = qgemm.report(program)
    assert not [r for r in rows if r.op in ("Gelu", "Erf", "Tanh", "Pow", "Div") and r.kernel != "lut"]
    assert {r.op for r in rows if r.scheme == "float"} <= {"Sub", "Mul", "Cast", "Unsqueeze", "Gather"}
    floats = qgemm.from_torch(model, batches[0])
    assert sqnr(floats(*batches[0]), want) > 100 and is_native(floats)


def test_rows_of_a_causal_mask_are_not_flattened_by_its_smallest_value():
    """The grid of masked scores would have the mask's -3.4e38 on it, and one step for all scores: the sum stays on none."""
    torch.manual_seed(0)
    program = qgemm.quantize(Decoder(layers=1).eval(), [torch.randint(0, 50, (2, 16)) for _ in range(2)])
    graph = program.graph
    (softmax,) = [n for n in graph.nodes if n.op == "Softmax"]
    assert len(softmax.inputs) == 2 and graph.tensors[softmax.inputs[0]].qparams.scale < 1
    weights = program.trace(torch.randint(0, 50, (1, 16)))[softmax.outputs[0]]
    assert (np.triu(weights[0, 0], 1) == 0).all() and len(np.unique(weights[0, 0, -1])) > 4


class Attention(nn.Module):
    """Of unit vectors (Swin v2) or with its products written as einsums (MaxViT)."""

    def __init__(self, einsum: bool, width: int = 32):
        super().__init__()
        self.qkv, self.out, self.einsum = nn.Linear(width, 3 * width), nn.Linear(width, width), einsum

    def forward(self, x):
        b, windows, n, width = x.shape
        q, k, v = (t.view(b, windows, n, 4, -1).permute(0, 1, 3, 2, 4) for t in self.qkv(x).chunk(3, -1))
        if self.einsum:
            scores = torch.einsum("B G H I D, B G H J D -> B G H I J", q, k) * 0.35
            y = torch.einsum("B G H I J, B G H J D -> B G H I D", scores.softmax(-1), v)
        else:
            q, k = nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)
            y = (q @ k.transpose(-1, -2) * 5).softmax(-1) @ v
        return self.out(y.transpose(2, 3).reshape(b, windows, n, width))


@pytest.mark.parametrize("einsum", [False, True])
def test_attention_of_windows_is_native(einsum):
    torch.manual_seed(0)
    model = Attention(einsum).eval()
    batches = [torch.randn(2, 3, 9, 32) for _ in range(2)]
    with torch.no_grad():
        want = model(batches[0])
    floats, program = qgemm.from_torch(model, batches[0]), qgemm.quantize(model, batches)
    assert sqnr(floats(batches[0]), want) > 100 and is_native(floats)
    assert sqnr(program(batches[0]), want) > 20 and is_native(program)
    assert [n.op for n in program.graph.nodes].count("MatMul") == 2 and all(n.op != "Einsum" for n in program.graph.nodes)


def test_an_adaptive_pool_that_repeats_pixels_is_native():
    """AlexNet and VGG on images of fewer pixels than the result has."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d((6, 6)), nn.Flatten(), nn.Linear(288, 5)).eval()
    batches = [torch.randn(2, 3, 4, 4) for _ in range(2)]
    with torch.no_grad():
        want = model(batches[0])
    floats, program = qgemm.from_torch(model, batches[0]), qgemm.quantize(model, batches)
    assert sqnr(floats(batches[0]), want) > 100 and is_native(floats)
    assert sqnr(program(batches[0]), want) > 20 and is_native(program)
