"""qgemm.ops.linear, linear_dynamic and matmul skip torch's dispatcher in plain eager mode only, and give the operators' bits."""

from __future__ import annotations

import concurrent.futures
import gc

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import qgemm  # noqa: E402
import qgemm.ops  # noqa: E402
from qgemm import _core  # noqa: E402
from qgemm.errors import DTypeError, PackedWeightError, QuantizationError, ShapeError  # noqa: E402
from qgemm.ops._linear import linear_static  # noqa: E402

OPS = torch.ops.qgemm
W = torch.randint(-127, 128, (6, 24), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
SCALE = np.full(6, 0.01, np.float32)
DYNAMIC = torch.from_numpy(_core.pack_linear(W.numpy(), SCALE))
STATIC = torch.from_numpy(_core.pack_linear(W.numpy(), SCALE, x_scale=0.03, x_zero_point=90))
X = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))
Q = torch.randint(0, 256, (2, 5, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
ENCODING = torch.tensor([0.03]), torch.tensor([90], dtype=torch.int32)

# name in torch.ops.qgemm, the function, its arguments
SHORT = {
    "linear": (qgemm.ops.linear, (Q, STATIC, 6, torch.int32)),
    "linear_dynamic": (qgemm.ops.linear_dynamic, (X, DYNAMIC, 6)),
    "matmul": (qgemm.ops.matmul, (Q, Q.mT, 0.1, 3, 0.2, 200, torch.float32)),
}
each = pytest.mark.parametrize("name", SHORT)


@each
def test_plain_tensors_do_not_meet_the_dispatcher(name, monkeypatch):
    function, arguments = SHORT[name]
    want = getattr(OPS, name)(*arguments)
    monkeypatch.setattr(qgemm.ops._linear, f"_{name}_op", None)
    got = function(*arguments)
    assert type(got) is torch.Tensor and torch.equal(got, want) and got.dtype == want.dtype and not got.requires_grad
    with torch.inference_mode():
        assert torch.equal(function(*arguments), want)


def test_what_is_not_plain_takes_the_general_way():
    want = OPS.linear_dynamic(X, DYNAMIC, 6)
    odd = torch.randn(24, 5).t()
    for given, expected in ((X[0, 0], want[0, 0]), (odd, OPS.linear_dynamic(odd, DYNAMIC, 6)), (torch.nn.Parameter(X), want)):
        got = qgemm.ops.linear_dynamic(given, DYNAMIC, 6)
        assert torch.equal(got, expected) and not got.requires_grad and type(got) is torch.Tensor
    negated = torch._neg_view(X)
    assert negated.is_neg()
    assert torch.equal(qgemm.ops.linear_dynamic(negated, DYNAMIC, 6), qgemm.ops.linear_dynamic(-X, DYNAMIC, 6))
    assert torch.equal(linear_static(negated, *ENCODING, STATIC, 6), linear_static(-X, *ENCODING, STATIC, 6))
    assert torch.equal(torch.vmap(lambda v: qgemm.ops.linear_dynamic(X, DYNAMIC, 6) + v)(torch.zeros(3))[1], want)
    assert qgemm.ops.linear_dynamic(X.to("meta"), DYNAMIC.to("meta"), 6).shape == (2, 5, 6)
    for name, arguments in (("linear", (STATIC, 6, torch.float32)), ("linear_dynamic", (DYNAMIC, 6))):
        none = torch.empty(4, 0, 24, dtype=Q.dtype if name == "linear" else X.dtype)
        assert getattr(qgemm.ops, name)(none, *arguments).shape == (4, 0, 6)


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class WatchFunctions(torch.overrides.TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@each
@pytest.mark.parametrize("mode", [Watch, WatchFunctions])
def test_modes_see_the_operator(name, mode):
    function, arguments = SHORT[name]
    with mode() as watch:
        function(*arguments)
    assert any(f"qgemm.{name}" in seen for seen in watch.seen)


@each
def test_the_profiler_sees_the_operator(name):
    function, arguments = SHORT[name]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function(*arguments)
    assert f"qgemm::{name}" in {event.key for event in profile.key_averages()}


@pytest.mark.filterwarnings("ignore")
@each
def test_a_trace_holds_the_operator(name):
    function, arguments = SHORT[name]
    traced = torch.jit.trace(lambda x: function(x, *arguments[1:]), arguments[0])
    assert f"qgemm::{name}" in str(traced.graph)
    other = arguments[0].flip(0)
    assert torch.equal(traced(other), function(other, *arguments[1:]))


@each
def test_compiled_it_is_one_node(name):
    function, arguments = SHORT[name]
    graphs = []

    def keep(module, inputs):
        graphs.append(module.graph)
        return module.forward

    torch._dynamo.reset()
    compiled = torch.compile(lambda *tensors: function(*tensors, *arguments[2:]), backend=keep, fullgraph=True)
    assert torch.equal(compiled(*arguments[:2]), function(*arguments))
    targets = [str(node.target) for node in graphs[0].nodes if node.op == "call_function"]
    assert len(graphs) == 1 and any(f"qgemm.{name}" in t for t in targets) and not any("eager" in t for t in targets)


def test_every_output_type():
    for dtype in (torch.uint8, torch.int8, torch.int32, torch.float32):
        epilogue = (dtype, 0.5, 100 if dtype is torch.uint8 else 0)
        assert torch.equal(qgemm.ops.linear(Q, STATIC, 6, *epilogue), OPS.linear(Q, STATIC, 6, *epilogue))
        assert torch.equal(qgemm.ops.matmul(Q, Q.mT, 1.0, 3, 0.2, 200, *epilogue), OPS.matmul(Q, Q.mT, 1.0, 3, 0.2, 200, *epilogue))
    bounds = {"lo": -0.25, "hi": 0.5}
    assert torch.equal(qgemm.ops.linear_dynamic(X, DYNAMIC, 6, **bounds), OPS.linear_dynamic(X, DYNAMIC, 6).clamp(-0.25, 0.5))


def test_signed_inputs_are_unsigned_ones_less_128():
    signed = (Q ^ 128).view(torch.int8)
    for dtype, epilogue in ((torch.int32, ()), (torch.float32, ()), (torch.uint8, (0.5, 100)), (torch.int8, (0.5, -28))):
        want = OPS.linear(Q, STATIC, 6, dtype, *epilogue)
        assert torch.equal(qgemm.ops.linear(signed, STATIC, 6, dtype, *epilogue), want)
        assert torch.equal(OPS.linear(signed, STATIC, 6, dtype, *epilogue), want)
        assert torch.equal(OPS.linear(signed.mT.contiguous().mT, STATIC, 6, dtype, *epilogue), want)


def test_static_is_quantize_and_linear():
    want = OPS.linear(OPS.quantize(X, *ENCODING, 0, 255, torch.uint8), STATIC, 6, torch.float32)
    assert torch.equal(_core.eager_linear_static(X, *ENCODING, STATIC, 6), want)
    assert torch.equal(linear_static(X, *ENCODING, STATIC, 6), want)
    with Watch() as watch:
        assert torch.equal(linear_static(X, *ENCODING, STATIC, 6), want)
    assert [name for name in watch.seen if "qgemm" in name] == ["qgemm.quantize.default", "qgemm.linear.default"]
    with pytest.raises(QuantizationError, match="scale"):
        linear_static(X, -ENCODING[0], ENCODING[1], STATIC, 6)


def test_errors_are_the_operators():
    with pytest.raises(ShapeError, match="K = 23"):
        qgemm.ops.linear_dynamic(torch.randn(2, 23), DYNAMIC, 6)
    with pytest.raises(ShapeError, match="out_features is 7"):
        qgemm.ops.linear(Q, STATIC, 7, torch.int32)
    with pytest.raises(PackedWeightError, match="static input encoding"):
        qgemm.ops.linear_dynamic(X, STATIC, 6)
    with pytest.raises(QuantizationError, match="out_scale"):
        qgemm.ops.linear(Q, STATIC, 6, torch.uint8, 0.0)
    with pytest.raises(DTypeError):
        qgemm.ops.linear(Q, STATIC, 6, torch.float64)
    with pytest.raises(ShapeError, match="K = "):
        qgemm.ops.matmul(Q, Q, 1.0, 0, 1.0, 0, torch.int32)
    with pytest.raises(QuantizationError, match="b_zero_point"):
        qgemm.ops.matmul(Q, Q.mT, 1.0, 0, 1.0, 256, torch.int32)
    with pytest.raises(QuantizationError, match="NaN|finite"):
        qgemm.ops.linear_dynamic(torch.full((2, 24), float("nan")), DYNAMIC, 6)


def test_results_are_ordinary_tensors():
    """In memory of their own, aligned, alive as long as a view of them; free for in-place operations and for growing."""
    results = [qgemm.ops.linear(Q[:, : i + 1], STATIC, 6, torch.float32) for i in range(5)]
    assert all(r.data_ptr() % 64 == 0 for r in results) and len({r.data_ptr() for r in results}) == 5
    want = OPS.linear(Q, STATIC, 6, torch.float32)
    view = qgemm.ops.linear(Q, STATIC, 6, torch.float32)[1, 2:]
    gc.collect()
    for _ in range(100):
        qgemm.ops.linear(Q.flip(0), STATIC, 6, torch.float32)
    assert torch.equal(view, want[1, 2:])
    y = qgemm.ops.linear(Q, STATIC, 6, torch.float32)
    y.mul_(2).add_(1)
    assert torch.equal(y, want * 2 + 1)
    assert torch.equal(y.resize_(2, 5, 3), (want * 2 + 1).flatten()[:30].reshape(2, 5, 3))
    assert torch.equal(torch.from_dlpack(want), want) and y.numpy().flags.writeable


def test_large_results_are_recycled_but_never_shared():
    """More blocks than are kept, of several sizes, alive at once, and from several threads."""
    w = np.eye(64, dtype=np.int8)
    packed = torch.from_numpy(_core.pack_linear(w, np.ones(1, np.float32)))

    def work(seed):
        alive = []
        for i in range(60):
            rows = 1100 + 700 * ((i * 7 + seed) % 5)  # results of 275 KiB to 1 MiB
            x = torch.full((rows, 64), (i + seed) % 256, dtype=torch.uint8)
            alive.append((qgemm.ops.linear(x, packed, 64, torch.float32), float((i + seed) % 256)))
            if i % 3 == 2:
                del alive[i % len(alive)]
            if len(alive) > 12:
                alive.clear()
            assert all(bool((y == want).all()) for y, want in alive)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, seed) for seed in range(4)]:
            done.result()
    x = torch.zeros(1 << 14, 64, dtype=torch.uint8)
    first = qgemm.ops.linear(x, packed, 64, torch.float32)
    address = first.data_ptr()
    del first
    assert qgemm.ops.linear(x, packed, 64, torch.float32).data_ptr() == address


def test_sizes_that_no_memory_holds():
    with pytest.raises((MemoryError, RuntimeError)):
        qgemm.ops.matmul(*(torch.empty(s, dtype=torch.uint8) for s in ((1 << 31, 0), (0, 1 << 31))), 1.0, 0, 1.0, 0, torch.float32)


def test_a_weight_that_changes_in_place_is_checked_again():
    changed = STATIC.clone()
    want = qgemm.ops.linear(Q, changed, 6, torch.int32)
    changed[17] = 1  # n
    with pytest.raises(PackedWeightError, match="damaged"):
        qgemm.ops.linear(Q, changed, 6, torch.int32)
    other = torch.from_numpy(_core.pack_linear(W.numpy(), SCALE, x_scale=0.03, x_zero_point=91))
    changed.copy_(other)
    assert torch.equal(qgemm.ops.linear(Q, changed, 6, torch.int32), OPS.linear(Q, other, 6, torch.int32))
    changed.copy_(STATIC)
    assert torch.equal(qgemm.ops.linear(Q, changed, 6, torch.int32), want)
