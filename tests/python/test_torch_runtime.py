"""Living with torch in one process: one OpenMP runtime, workers after a fork, threads that call at once, no torch at all."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading

import pytest

torch = pytest.importorskip("torch")

import qgemm  # noqa: E402


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="reads /proc/self/maps")
@pytest.mark.parametrize("order", ["torch, qgemm.nn", "qgemm._core, torch, qgemm.nn"])
def test_one_openmp_runtime_is_mapped(order):
    if "_core" in order.split(",")[0] and not torch_ships_libgomp_by_soname():
        pytest.skip("this torch has a libgomp under another name")
    libraries = run(
        f"import {order}\n"
        "import torch, qgemm.nn\n"
        "qgemm.nn.Linear(300, 300)(torch.randn(200, 300))\n"
        "print(sorted({l.split()[-1] for l in open('/proc/self/maps') if 'gomp' in l or 'iomp' in l or 'libomp' in l}))"
    )
    assert len(ast.literal_eval(libraries)) == 1, libraries


def torch_ships_libgomp_by_soname() -> bool:
    return os.path.exists(os.path.join(os.path.dirname(torch.__file__), "lib", "libgomp.so.1"))


def test_threads_follow_torch():
    out = run(
        "import torch, qgemm.nn\nfrom qgemm import _core\n"
        "for n in (1, 2):\n    torch.set_num_threads(n)\n    print(_core.max_threads(), end=' ')"
    )
    assert out == "1 2"


def test_a_forked_child_computes():
    # libgomp's threads do not survive a fork: the child must not wait for them.
    out = run(
        "import os, signal, warnings, numpy as np, torch\n"
        "from qgemm import _core\n"
        "warnings.simplefilter('ignore')\n"
        "torch.set_num_threads(2)\n"
        "def compute():\n"
        "    packed = _core.pack_linear(np.arange(1 << 20).astype(np.int8).reshape(1024, 1024), np.ones(1, np.float32))\n"
        "    y = np.empty((256, 1024), np.float32)\n"
        "    _core.linear_dynamic(np.linspace(-1, 1, 1 << 18, dtype=np.float32).reshape(256, 1024), packed, y)\n"
        "    return y.tobytes()\n"
        "want = compute()\n"
        "if not (child := os.fork()):\n"
        "    signal.alarm(60)\n"
        "    os._exit(0 if compute() == want else 3)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert out == "0"


class Doubled(torch.utils.data.Dataset):
    """Runs a quantized layer in the worker, which was forked after the parent had used its threads."""

    def __init__(self, layer):
        self.layer = layer

    def __len__(self):
        return 6

    def __getitem__(self, i):
        with torch.no_grad():
            return self.layer(torch.full((64, 128), float(i + 1)))


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_data_loader_workers():
    layer = qgemm.nn.Linear.from_float(torch.nn.Linear(128, 96), qgemm.W8A8Dynamic())
    data = Doubled(layer)
    want = torch.stack([data[i] for i in range(6)])  # the parent's parallel region, before the fork
    got = torch.cat(list(torch.utils.data.DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=120)))
    assert torch.equal(got, want)


def test_threads_that_call_one_layer_at_once():
    layer = qgemm.nn.Conv2d.from_float(torch.nn.Conv2d(16, 24, 3), qgemm.W8A8Dynamic()).eval()
    inputs = [torch.randn(1, 16, 20, 20) for _ in range(8)]
    want = [layer(x) for x in inputs]
    got = [None] * 8

    def work(i):
        for _ in range(20):
            got[i] = layer(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


@pytest.mark.parametrize(
    "use", ["import qgemm.ops", "import qgemm.nn", "import qgemm; qgemm.nn", "import qgemm; qgemm.quantize_(None, qgemm.W8A8Dynamic())"]
)
def test_without_torch_the_extra_is_named(use):
    out = run(f"import sys; sys.modules['torch'] = None\ntry:\n    {use}\nexcept Exception as e:\n    print(type(e).__name__, e)")
    assert out.startswith("MissingDependencyError") and "qgemm[torch]" in out


def test_qgemm_itself_does_not_import_torch():
    assert run("import sys, qgemm; qgemm.W8A8Dynamic(); print('torch' in sys.modules)") == "False"
