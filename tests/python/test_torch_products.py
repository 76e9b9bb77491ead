"""torch.ops.qgemm.matmul, linear16, linear_quantized: exact integers in numpy, strides without copies, one node, typed errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import qgemm.ops  # noqa: E402, F401
from qgemm import _core, numerics  # noqa: E402
from qgemm.errors import (  # noqa: E402
    AccumulatorOverflowError,
    DeviceError,
    DTypeError,
    LayoutError,
    PackedWeightError,
    QuantizationError,
    ShapeError,
)

OPS = torch.ops.qgemm
U8, S8, S32, F32, U16 = torch.uint8, torch.int8, torch.int32, torch.float32, torch.uint16


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def operand(rng, shape, signed):
    lo = -128 if signed else 0
    x = rng.integers(lo, lo + 256, shape).astype(np.int8 if signed else np.uint8)
    return torch.from_numpy(x), int(rng.integers(lo, lo + 256))


def exact(a, za, b, zb):
    return np.matmul(a.numpy().astype(np.int64) - za, b.numpy().astype(np.int64) - zb)


# ---- matmul -------------------------------------------------------------------------------------------------------------------------

LEADING = [
    ((), ()),
    ((3,), (3,)),
    ((2, 3), (2, 3)),
    ((2, 3), ()),
    ((), (2, 3)),
    ((2, 3), (3,)),
    ((2, 3), (2, 1)),  # heads that share one key
    ((2, 1), (2, 3)),
    ((1, 3), (2, 1)),
    ((2, 4, 3), (4, 1)),
    ((5, 1), (1, 1)),
    ((0, 2), (1, 2)),
]


@pytest.mark.parametrize("leading", LEADING, ids=repr)
@pytest.mark.parametrize("signed", list(itertools.product([False, True], repeat=2)))
def test_matmul_is_exact_and_broadcasts_as_torch_does(leading, signed, rng, isa):
    for m, n, k in ((7, 65, 33), (1, 1, 5), (4, 3, 0)):
        a, za = operand(rng, (*leading[0], m, k), signed[0])
        b, zb = operand(rng, (*leading[1], k, n), signed[1])
        want = exact(a, za, b, zb)
        assert want.shape == torch.matmul(a.float(), b.float()).shape
        y = (want.astype(np.float32) * np.float32(np.float64(np.float32(0.02)) * np.float64(np.float32(0.03)))).astype(np.float32)
        layouts = (a, a.mT.contiguous().mT, a.repeat_interleave(2, -1)[..., ::2]), (b, b.mT.contiguous().mT, b.repeat(*(1,) * b.dim())[:])
        for x, w in itertools.product(*layouts):
            got = OPS.matmul(x, w, 0.02, za, 0.03, zb, S32)
            assert got.is_contiguous() and np.array_equal(got.numpy(), want)
            assert np.array_equal(OPS.matmul(x, w, 0.02, za, 0.03, zb, F32).numpy(), y + np.float32(0))
            assert np.array_equal(OPS.matmul(x, w, 0.02, za, 0.03, zb, U8, 0.4, 99).numpy(), numerics.requantize(y, 0.4, 99))
            clipped = OPS.matmul(x, w, 0.02, za, 0.03, zb, S8, 0.4, -29, -29.0, 60.0)
            assert np.array_equal(clipped.numpy(), numerics.requantize(y, 0.4, -29, -29, 60))


def layouts(t):
    """``t`` [..., R, C] as it may lie in memory and be read without a copy."""
    yield t
    yield t.mT.contiguous().mT
    if t.dim() == 4:
        yield t.transpose(1, 2).contiguous().transpose(1, 2)  # heads between tokens and features
        yield t.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)  # features first
        yield torch.stack([t, t], 1)[:, 1]  # one of several beside each other
    wide = torch.zeros((*t.shape[:-1], t.shape[-1] + 5), dtype=t.dtype)
    wide[..., 2:-3] = t
    yield wide[..., 2:-3]


@pytest.mark.parametrize("shape", [(6, 9, 16), (1, 9, 16), (6, 1, 16), (6, 9, 1), (0, 4, 3), (4, 0, 3), (4, 3, 0)], ids=repr)
@pytest.mark.parametrize("leading", [(2, 3), (1, 3), (2, 1), (0, 3), (3,), ()], ids=repr)
def test_matmul_reads_operands_where_they_lie(leading, shape, rng):
    """No copy is made where rows or columns are contiguous and the leading dimensions agree."""
    m, n, k = shape
    (a, za), (b, zb) = operand(rng, (*leading, m, k), False), operand(rng, (*leading, k, n), True)
    want = exact(a, za, b, zb)
    for x, w in itertools.product(layouts(a), layouts(b)):
        got = qgemm.ops.matmul(x, w, 0.5, za, 0.25, zb, S32)
        assert got.is_contiguous() and np.array_equal(got.numpy(), want)
        if x.numel() and w.numel():  # the strides of empty tensors are anything
            assert torch.equal(_core.tensor_matmul(x, w, 0.5, za, 0.25, zb, S32, 1.0, 0, None, None), got)


def test_matmul_of_other_strides_is_copied(rng):
    (a, za), (b, zb) = operand(rng, (2, 3, 4, 6, 8), False), operand(rng, (2, 3, 4, 8, 5), True)
    want = exact(a, za, b, zb)
    far = a.permute(2, 1, 0, 3, 4).contiguous().permute(2, 1, 0, 3, 4)  # three leading dimensions, none next to another
    spread = a.repeat_interleave(2, -1)[..., ::2]
    for x in (far, spread, a[:, :1, :1, :1].expand_as(a)):
        assert _core.tensor_matmul(x, b, 0.5, za, 0.25, zb, S32, 1.0, 0, None, None) is None
        assert np.array_equal(OPS.matmul(x, b, 0.5, za, 0.25, zb, S32).numpy(), exact(x, za, b, zb))
    assert np.array_equal(qgemm.ops.matmul(far, b, 0.5, za, 0.25, zb, S32).numpy(), want)


def test_matmul_reads_a_shared_operand_once(rng, monkeypatch):
    """The shared operand of a broadcast is not copied, and the matrices that meet it are one taller matrix."""
    seen = {}

    def spy(a, b, out, *rest):
        seen.update(a=a.ctypes.data, b=b.ctypes.data, a_shape=a.shape, b_shape=b.shape)
        real(a, b, out, *rest)

    real = _core.matmul
    monkeypatch.setattr(_core, "matmul", spy)
    q, zq = operand(rng, (2, 3, 6, 16), False)
    k, zk = operand(rng, (2, 3, 9, 16), True)
    one = k[:, :1].contiguous()  # [2, 1, 9, 16]: each key is met by three heads
    got = OPS.matmul(q, one.mT, 1.0, zq, 1.0, zk, S32)
    assert np.array_equal(got.numpy(), exact(q, zq, one.mT, zk))
    assert (seen["a"], seen["b"]) == (q.data_ptr(), one.data_ptr())
    assert seen["a_shape"] == (2, 18, 16) and seen["b_shape"] == (2, 9, 16)
    got = OPS.matmul(q, k[0, 0].mT, 1.0, zq, 1.0, zk, S32)
    assert (seen["a"], seen["b"], seen["a_shape"]) == (q.data_ptr(), k.data_ptr(), (36, 16))


class Scores(torch.nn.Module):
    def forward(self, q, k):
        return torch.ops.qgemm.matmul(q, k.transpose(-1, -2), 0.02, 117, 0.03, -4, torch.float32)


def product_nodes(graph):
    return [str(node.target) for node in graph.nodes if "qgemm" in str(node.target)]


def test_matmul_compiles_and_exports_as_one_node(rng):
    q, k = operand(rng, (2, 3, 6, 16), False)[0], operand(rng, (2, 3, 9, 16), True)[0]
    batch, queries, keys = (torch.export.Dim(name) for name in ("batch", "queries", "keys"))
    program = torch.export.export(Scores(), (q, k), dynamic_shapes=({0: batch, 2: queries}, {0: batch, 2: keys}))
    assert product_nodes(program.graph) == ["qgemm.matmul.default"]
    torch._dynamo.reset()
    compiled = torch.compile(Scores(), fullgraph=True, dynamic=True)
    for b, m, n in ((2, 6, 9), (1, 4, 4), (5, 1, 7)):
        q, k = operand(rng, (b, 3, m, 16), False)[0], operand(rng, (b, 3, n, 16), True)[0]
        want = Scores()(q, k)
        assert torch.equal(program.module()(q, k), want) and torch.equal(compiled(q, k), want)


# ---- 16-bit activations, quantized rows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4])
def test_linear16_is_exact(bits, rng, isa):
    top = 1 << (bits - 1)
    for shape, n in (((7, 65), 33), ((2, 3, 64), 5), ((31,), 16), ((2, 0, 12), 3)):
        k = shape[-1]
        x = rng.integers(0, 65536, shape).astype(np.uint16)
        w = rng.integers(-top, top, (n, k)).astype(np.int8)
        scale, bias = rng.uniform(0.001, 0.01, n).astype(np.float32), rng.normal(size=n).astype(np.float32)
        packed = torch.from_numpy(_core.pack_linear(w, scale, bias=bias, bits=bits))
        zx, sx = int(rng.integers(0, 65536)), 1e-4
        acc = (x.astype(np.int64) - zx) @ w.astype(np.int64).T
        y = numerics.fmaf(acc.astype(np.float32), (np.float64(np.float32(sx)) * scale.astype(np.float64)).astype(np.float32), bias)
        given = torch.from_numpy(x)
        apart = torch.from_numpy(np.repeat(x, 2, -1).copy())[..., ::2]
        for t in (given, apart):
            got = OPS.linear16(t, packed, n, sx, zx, F32)
            assert got.shape == (*shape[:-1], n) and np.array_equal(got.numpy(), y)
            assert np.array_equal(OPS.linear16(t, packed, n, sx, zx, F32, 1.0, 0, 0.0, 6.0).numpy(), np.clip(y, 0, 6))
            for dtype, top_code in ((U8, 255), (U16, 65535)):
                q = OPS.linear16(t, packed, n, sx, zx, dtype, 0.01, 90)
                want = np.clip(np.rint(y * (np.float32(1) / np.float32(0.01))) + 90, 0, top_code)
                assert q.dtype == dtype and np.array_equal(q.numpy(), want)
                signed = OPS.linear16(t, packed, n, sx, zx, torch.int16 if top_code > 255 else torch.int8, 0.01, 90 - (top_code + 1) // 2)
                assert np.array_equal(signed.numpy().astype(np.int32), want - (top_code + 1) // 2)
            assert torch.equal(OPS.linear16(torch.from_numpy((x ^ 0x8000).view(np.int16)), packed, n, sx, zx - 32768, F32), got)


@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_halves_of_linear_dynamic(per_row, symmetric, rng, isa):
    for shape, n, bits, group in (((7, 65), 33, 8, 0), ((2, 3, 64), 5, 4, 32), ((31,), 16, 8, 0), ((2, 0, 12), 3, 4, 0)):
        top = 1 << (bits - 1)
        w = rng.integers(-top, top, (n, shape[-1])).astype(np.int8)
        scale = rng.uniform(0.001, 0.01, (n, -(-shape[-1] // group)) if group else n).astype(np.float32)
        packed = torch.from_numpy(_core.pack_linear(w, scale, bias=rng.normal(size=n).astype(np.float32), bits=bits, group_size=group))
        x = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
        q, s, z = OPS.quantize_dynamic(x, per_row, symmetric)
        for bounds in ((), (0.0, 0.5)):
            want = OPS.linear_dynamic(x, packed, n, per_row, symmetric, *bounds)
            assert torch.equal(OPS.linear_quantized(q, s, z, packed, n, *bounds), want)
        assert torch.equal(
            OPS.linear_quantized(q.repeat_interleave(2, -1)[..., ::2], s, z, packed, n),
            OPS.linear_dynamic(x, packed, n, per_row, symmetric),
        )


class TwoLayers(torch.nn.Module):
    def __init__(self, packed):
        super().__init__()
        self.register_buffer("packed", packed)

    def forward(self, x):
        q, scale, zero_point = torch.ops.qgemm.quantize_dynamic(x)
        first = torch.ops.qgemm.linear_quantized(q, scale, zero_point, self.packed, 6)
        return first, torch.ops.qgemm.linear_quantized(q, scale, zero_point, self.packed, 6, 0.0)


def test_quantized_rows_compile_and_export(rng):
    packed = torch.from_numpy(_core.pack_linear(rng.integers(-128, 128, (6, 24)).astype(np.int8), np.full(6, 0.01, np.float32)))
    model = TwoLayers(packed)
    program = torch.export.export(model, (torch.randn(4, 24),), dynamic_shapes=({0: torch.export.Dim("rows")},))
    assert product_nodes(program.graph) == ["qgemm.quantize_dynamic.default"] + ["qgemm.linear_quantized.default"] * 2
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    for rows in (4, 9):
        x = torch.randn(rows, 24)
        want = OPS.linear_dynamic(x, packed, 6), OPS.linear_dynamic(x, packed, 6, True, False, 0.0)
        for got in (model(x), program.module()(x), compiled(x)):
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


# ---- what is refused ------------------------------------------------------------------------------------------------------------------

A, B = torch.zeros(4, 8, dtype=U8), torch.zeros(8, 5, dtype=S8)
W = torch.from_numpy(_core.pack_linear(np.ones((5, 8), np.int8), np.ones(5, np.float32)))
STATIC = torch.from_numpy(_core.pack_linear(np.ones((5, 8), np.int8), np.ones(5, np.float32), x_scale=0.5, x_zero_point=3))
X16, ONE, ZERO = A.to(U16), torch.ones(1), torch.zeros(1, dtype=S32)


def mm(a=A, b=B, sa=1.0, za=0, sb=1.0, zb=0, dtype=F32, *rest):
    return OPS.matmul(a, b, sa, za, sb, zb, dtype, *rest)


BAD = {
    "K": (ShapeError, "K = 8.*K = 7", lambda: mm(b=B[:7])),
    "a vector": (ShapeError, "2 dimensions", lambda: mm(A[0])),
    "b a vector": (ShapeError, "2 dimensions", lambda: mm(b=B[:, 0])),
    "leading dimensions": (ShapeError, "broadcast", lambda: mm(A.expand(3, 4, 8), B.expand(2, 8, 5))),
    "floats": (DTypeError, "a must be uint8 or int8", lambda: mm(A.float())),
    "bfloat16": (DTypeError, "bfloat16", lambda: mm(b=B.bfloat16())),
    "double out": (DTypeError, "out must be", lambda: mm(dtype=torch.float64)),
    "scale": (QuantizationError, "b_scale", lambda: mm(sb=float("nan"))),
    "zero point of the other sign": (QuantizationError, "a_zero_point", lambda: mm(za=-1)),
    "out_zero_point": (QuantizationError, "out_zero_point", lambda: mm(A, B, 1.0, 0, 1.0, 0, U8, 1.0, 256)),
    "long K": (AccumulatorOverflowError, "K = 40000", lambda: mm(torch.zeros(1, 40000, dtype=U8), torch.zeros(40000, 1, dtype=U8))),
    "meta operand": (DeviceError, "meta", lambda: mm(b=B.to("meta"))),
    "sparse operand": (LayoutError, "dense", lambda: mm(A.to_sparse())),
    "8-bit x": (DTypeError, "uint16", lambda: OPS.linear16(A, W, 5, 1.0, 0, F32)),
    "16-bit K": (ShapeError, "K = 7", lambda: OPS.linear16(X16[:, :7].contiguous(), W, 5, 1.0, 0, F32)),
    "16-bit N": (ShapeError, "out must have shape", lambda: OPS.linear16(X16, W, 6, 1.0, 0, F32)),
    "16-bit out": (DTypeError, "float32, uint8, int8, uint16 or int16", lambda: OPS.linear16(X16, W, 5, 1.0, 0, S32)),
    "16-bit zero point": (QuantizationError, "x_zero_point", lambda: OPS.linear16(X16, W, 5, 1.0, 65536, F32)),
    "16-bit static weight": (PackedWeightError, "default x_scale", lambda: OPS.linear16(X16, STATIC, 5, 1.0, 0, F32)),
    "no dimensions": (ShapeError, "no dimensions", lambda: OPS.linear16(X16[0, 0], W, 5, 1.0, 0, F32)),
    "float rows": (DTypeError, "q must be uint8", lambda: OPS.linear_quantized(A.float(), ONE, ZERO, W, 5)),
    "rows without a scale": (ShapeError, "scale is .3,.*row of q: .4,", lambda: OPS.linear_quantized(A, torch.ones(3), ZERO, W, 5)),
    "scale of integers": (DTypeError, "scale must be float32", lambda: OPS.linear_quantized(A, ZERO, ZERO, W, 5)),
    "scale of 0": (QuantizationError, "scale of row 0", lambda: OPS.linear_quantized(A, ONE * 0, ZERO, W, 5)),
    "zero point of 256": (QuantizationError, "zero_point of row 0", lambda: OPS.linear_quantized(A, ONE, ZERO + 256, W, 5)),
    "rows, static weight": (PackedWeightError, "static", lambda: OPS.linear_quantized(A, ONE, ZERO, STATIC, 5)),
}


@pytest.mark.parametrize(("error", "says", "call"), BAD.values(), ids=BAD)
def test_bad_input(error, says, call):
    with pytest.raises(error, match=says):
        call()


def test_the_engine_takes_quantized_rows_as_they_are():
    """_core.linear_rows: strides within, nothing converted, nothing overlapping."""
    rng = np.random.default_rng(8)
    q, w = rng.integers(0, 256, (4, 8)).astype(np.uint8), rng.integers(-128, 128, (5, 8)).astype(np.int8)
    packed = _core.pack_linear(w, np.full(5, 0.5, np.float32))
    scale, zero = rng.uniform(0.1, 1, 4).astype(np.float32), rng.integers(0, 256, 4).astype(np.int32)
    want = np.empty((4, 5), np.float32)
    _core.linear_rows(q, scale, zero, packed, want)
    acc = (q.astype(np.int64) - zero[:, None]) @ w.astype(np.int64).T
    assert np.allclose(want, acc * 0.5 * scale[:, None])
    wide, out = np.zeros((4, 11), np.uint8), np.full((4, 9), 7, np.float32)
    wide[:, :8] = q
    _core.linear_rows(wide[:, :8], scale, zero, packed, out[:, :5])
    assert np.array_equal(out[:, :5], want) and (out[:, 5:] == 7).all()
    overlapping = np.zeros(20, np.float32)
    for error, says, args in (
        (ShapeError, "scale must have 4", (q, scale[:3], zero, packed, want)),
        (ShapeError, "zero_point must have 4", (q, scale, zero[:3], packed, want)),
        (ShapeError, "out must have shape", (q, scale, zero, packed, want[:3])),
        (DTypeError, "zero_point must be int32", (q, scale, zero.astype(np.int64), packed, want)),
        (DTypeError, "out must be float32", (q, scale, zero, packed, want.astype(np.int32))),
        (LayoutError, "contiguous", (q, np.ones(8, np.float32)[::2], zero, packed, want)),
        (LayoutError, "out overlaps scale", (q, overlapping[:4], zero, packed, overlapping.reshape(4, 5))),
        (QuantizationError, "scale of row 2", (q, np.array([1, 1, np.inf, 1], np.float32), zero, packed, want)),
        (QuantizationError, "zero_point of row 3", (q, scale, np.array([0, 0, 0, -1], np.int32), packed, want)),
        (QuantizationError, "lo must not exceed hi", (q, scale, zero, packed, want, 1.0, 0.0)),
    ):
        with pytest.raises(error, match=says):
            _core.linear_rows(*args)
