"""A Program as an ``nn.Module``: where modules go, it goes."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

import qgemm
from onnx_nets import Builder
from qgemm.errors import ConfigError, DeviceError
from test_graph_program import small_net

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402


@pytest.fixture
def program(rng):
    return qgemm.load(small_net(rng))


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def two(rng):
    """Two inputs, two outputs: token ids with an open length beside an image."""
    b = Builder()
    b.input("x", ["n", 3, 8, 8])
    w = b.weight("conv.weight", rng.integers(-128, 128, (8, 3, 3, 3)).astype(np.int8), np.full(8, 0.01))
    c = b.q(b.add("Conv", [b.q("x", 0.05, 128), w], "c", name="/conv/Conv"), 0.05, 0)
    b.add("Flatten", [c], "flat", name="/flat/Flatten")
    b.add("Relu", ["x"], "y2", name="/relu/Relu")
    return qgemm.load(b.model("flat", "y2"))


def test_it_is_a_module(program, x):
    y = program(x)
    assert isinstance(program, nn.Module) and isinstance(program, qgemm.Program)
    assert program.eval() is program and program.train() is program and program.training
    assert not list(program.parameters()) and not program.state_dict()
    program.half().to(torch.float64)
    assert torch.equal(program(x), y) and torch.equal(program.eval()(x), y)
    assert "6 steps" in repr(program) or "steps" in repr(program)
    calls = []
    handle = program.register_forward_hook(lambda m, args, out: calls.append(out))
    program(x)
    handle.remove()
    assert torch.equal(calls[0], y)
    with pytest.raises(DeviceError):
        program(torch.empty(1, 3, 8, 8, device="meta"))


def test_inside_a_model(program, x):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), program, nn.Softmax(-1)).eval()
    with torch.no_grad():
        want = torch.softmax(program(model[0](x)), -1)
        assert torch.equal(model(x), want)
    assert torch.equal(model(x), want)  # the gradient ends at the program
    assert not model(x).requires_grad and [n for n, _ in model.named_modules()] == ["", "0", "1", "2"]
    other = copy.deepcopy(model)
    assert torch.equal(other(x), want) and other[1] is not program
    state = model.state_dict()
    assert list(state) == ["0.weight", "0.bias"]
    other.load_state_dict(state)


def test_inference_mode(program, x):
    want = program(x)
    with torch.inference_mode():
        y = program(x * 1)
    assert torch.equal(y, want)


def test_copies_keep_what_a_module_has(program, x):
    program.eval()
    program.register_forward_hook(_double)
    want = program(x)
    buffer = io.BytesIO()
    torch.save(program, buffer)
    buffer.seek(0)
    for again in (copy.deepcopy(program), pickle.loads(pickle.dumps(program)), torch.load(buffer, weights_only=False)):
        assert not again.training and torch.equal(again(x), want) and again._handle != program._handle


def _double(module, args, out):
    return out * 2


def test_a_process_without_torch_reads_it(program, x, tmp_path):
    (tmp_path / "program.pickle").write_bytes(pickle.dumps(program))
    np.save(tmp_path / "x.npy", x.numpy())
    code = (
        "import pickle, sys, numpy as np\n"
        f"program = pickle.load(open({str(tmp_path / 'program.pickle')!r}, 'rb'))\n"
        f"y = program(np.load({str(tmp_path / 'x.npy')!r}))\n"
        "assert 'torch' not in sys.modules\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, y)\n"
        "import torch, copy\n"
        "assert not isinstance(program, torch.nn.Module) and isinstance(copy.deepcopy(program), torch.nn.Module)\n"
        "assert np.array_equal(program(torch.from_numpy(np.load(" + repr(str(tmp_path / "x.npy")) + "))).numpy(), y)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "y.npy"), program(x).numpy())


class Dataset(torch.utils.data.Dataset):
    """Preprocesses with a program, in the worker."""

    def __init__(self, program, x):
        self.program, self.x = program, x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.program(self.x[i : i + 1])[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_in_the_workers_of_a_data_loader(program, x, start):
    torch.set_num_threads(2)
    want = program(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = torch.utils.data.DataLoader(Dataset(program, x), batch_size=2, num_workers=2, multiprocessing_context=start, timeout=120)
        got = torch.cat(list(loader))
    assert torch.equal(got, want)


def test_threads(program, x):
    inputs = [x[: 1 + i % 4] * (1 + i / 8) for i in range(16)]
    want = [program(i) for i in inputs]
    wrong = []

    def work():
        for i, w in zip(inputs, want, strict=True):
            if not torch.equal(program(i), w):
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong


class Around(nn.Module):
    def __init__(self, program):
        super().__init__()
        self.program = program

    def forward(self, x):
        return self.program(x * 2.0).relu() + 1


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled_it_is_one_node(program, x, backend):
    torch._dynamo.reset()
    model = Around(program)
    want = model(x)
    seen = []

    def watch(gm, example_inputs):
        seen.append([n.target for n in gm.graph.nodes if n.op == "call_function" and "qgemm" in str(n.target)])
        return torch._dynamo.lookup_backend(backend)(gm, example_inputs)

    compiled = torch.compile(model, fullgraph=True, backend=watch)
    assert torch.equal(compiled(x), want)
    assert seen == [[torch.ops.qgemm.program.default]]
    assert torch.equal(compiled(x[:2]), want[:2])


def test_compiled_with_any_batch(program, x):
    torch._dynamo.reset()
    compiled = torch.compile(program, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n in (4, 3, 2):
            assert torch.equal(compiled(x[:n].clone()), program(x[:n]))


def test_two_programs_in_one_graph(program, rng, x):
    torch._dynamo.reset()
    other = qgemm.load(small_net(rng))
    compiled = torch.compile(lambda v: program(v) - other(v), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), program(x) - other(x))


def test_several_outputs(two, x):
    torch._dynamo.reset()
    want = two(x)
    got = torch.compile(two, fullgraph=True, backend="aot_eager")(x)
    assert isinstance(want, tuple) and isinstance(got, tuple) and all(map(torch.equal, got, want))
    assert got[0].shape == (4, 8 * 36)


def test_exported(program, x):
    batch = torch.export.Dim("batch", min=2, max=64)
    for strict in (True, False):
        exported = torch.export.export(Around(program), (x,), dynamic_shapes=({0: batch},), strict=strict)
        assert "torch.ops.qgemm.program" in exported.graph_module.code
        for n in (4, 2):
            assert torch.equal(exported.module()(x[:n]), Around(program)(x[:n]))


def test_traced(program, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Around(program), x)
    assert torch.equal(traced(x), Around(program)(x))


def test_the_operator_keeps_its_promises(program, two, x):
    torch.library.opcheck(torch.ops.qgemm.program.default, ([x], program._handle))
    torch.library.opcheck(torch.ops.qgemm.program.default, ([x], two._handle))


def test_a_graph_outlives_its_program(program, x):
    op, handle = torch.ops.qgemm.program.default, program._handle
    assert torch.equal(op([x], handle)[0], program(x))
    with pytest.raises(ConfigError, match="does not exist in this process"):
        op([x], handle + 1)
    other = copy.deepcopy(program)
    gone = other._handle
    del other
    gc.collect()
    with pytest.raises(ConfigError, match=r"qgemm\.save"):
        op([x], gone)
