"""The ``qgemm`` command: what each verb prints, its exit codes, and that an error is one clean line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qgemm import _core, bench, cli
from qgemm.errors import ConfigError

DATA = Path(cli.__file__).parent / "data"
W8A8 = str(DATA / "digits_w8a8.onnx")


def run(capsys, *argv):
    code = cli.main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def fails(capsys, *argv):
    """The one line that a refused command prints; nothing else may be printed."""
    code, out, err = run(capsys, *argv)
    assert code == 2 and "Traceback" not in err
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    return lines[0]


def test_info(capsys):
    code, out, _ = run(capsys, "info")
    assert code == 0
    for word in ("threads", "numpy", "torch", _core.active_isa(), *_core.available_isas()):
        assert word in out
    assert _core.explain() in out


def test_module_and_version():
    got = subprocess.run([sys.executable, "-m", "qgemm", "--version"], capture_output=True, text=True, check=True)
    assert got.stdout.startswith("qgemm ")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["no-such-verb"],
        ["bench", W8A8, "--batch", "0"],
        ["bench", W8A8, "--shape", "1,x"],
        ["demo", "--threads", "x"],
        ["demo", "--threads", "100000"],
        ["demo", "--seconds", "nan"],
        ["demo", "--seconds", "-1"],
    ],
    ids=" ".join,
)
def test_usage_errors_exit_2(argv, capsys):
    with pytest.raises(SystemExit) as e:
        cli.main(argv)
    assert e.value.code == 2


def test_info_runs_without_torch():
    """numpy is the one hard dependency: `qgemm info` must not need, nor load, anything else."""
    code = "import sys; sys.modules['torch'] = None; from qgemm.cli import main; main(['info']); assert 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_reader_that_leaves_early():
    got = subprocess.run(f"{sys.executable} -m qgemm info | head -1", shell=True, capture_output=True, text=True, check=True)
    assert got.stdout.startswith("qgemm ") and got.stderr == ""


# ---- verbs on the shipped network ---------------------------------------------------------------------------------------

onnx = pytest.importorskip("onnx")


def test_inspect(capsys):
    code, out, _ = run(capsys, "inspect", W8A8)
    assert code == 0
    assert "input image [?, 1, 28, 28]: uint8" in out and "output logits [?, 10]: uint8" in out
    assert "W8A8" in out and "classifier" in out


def test_inspect_missing_file(capsys, tmp_path):
    line = fails(capsys, "inspect", tmp_path / "none.onnx")
    assert line.startswith("qgemm inspect: ") and "none.onnx" in line


def test_inspect_damaged_files(capsys, tmp_path):
    whole = Path(W8A8).read_bytes()
    for name, content in {"cut.onnx": whole[: len(whole) // 2], "empty.onnx": b"", "text.onnx": b"not a model"}.items():
        (tmp_path / name).write_bytes(content)
        assert name in fails(capsys, "inspect", tmp_path / name)


def test_damaged_encodings(capsys, tmp_path):
    (tmp_path / "bad.encodings").write_text("{not json")
    assert "bad.encodings" in fails(capsys, "inspect", W8A8, "--encodings", tmp_path / "bad.encodings")


def test_traceback_is_there_when_asked_for(capsys, tmp_path):
    code, _, err = run(capsys, "inspect", "--traceback", tmp_path / "none.onnx")
    assert code == 2 and "Traceback" in err


def test_validate_against_onnxruntime(capsys, tmp_path):
    pytest.importorskip("onnxruntime")
    with np.load(DATA / "digits_test.npz") as f:
        np.save(tmp_path / "x.npy", f["images"][:32, None].astype(np.float32) / 255)
    code, out, _ = run(capsys, "validate", W8A8, "--inputs", tmp_path / "x.npy", "--min-sqnr", "30")
    assert code == 0 and "onnxruntime" in out and "32 samples" in out
    code, _, err = run(capsys, "validate", W8A8, "--min-sqnr", "1000", "--samples", "4")
    assert code in (0, 1) and (code == 0 or "below 1000 dB" in err)  # 0 where every output is equal: the SQNR is infinite


def test_validate_refuses_what_is_not_an_array(capsys, tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "x.npy").write_text("no array")
    assert "x.npy" in fails(capsys, "validate", W8A8, "--inputs", tmp_path / "x.npy")
    np.save(tmp_path / "none.npy", np.empty((0, 1, 28, 28), np.float32))
    assert "no samples" in fails(capsys, "validate", W8A8, "--inputs", tmp_path / "none.npy")
    np.save(tmp_path / "words.npy", np.array(["a"]))
    assert "numbers" in fails(capsys, "validate", W8A8, "--inputs", tmp_path / "words.npy")


def test_wrong_shapes_are_refused(capsys, tmp_path):
    pytest.importorskip("onnxruntime")
    np.save(tmp_path / "flat.npy", np.zeros((4, 28, 28), np.float32))
    for argv in (["validate", W8A8, "--inputs", tmp_path / "flat.npy"], ["bench", W8A8, "--shape", "1,3,32,32"]):
        line = fails(capsys, *argv)
        assert "ShapeError" in line and "image" in line and "28" in line


def test_several_inputs_are_refused(capsys, tmp_path):
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 4]) for n in "aby"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["a", "b"], ["y"])], "g", value[:2], value[2:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), tmp_path / "two.onnx")
    assert "2 inputs" in fails(capsys, "bench", tmp_path / "two.onnx")
    assert "2 inputs" in fails(capsys, "validate", tmp_path / "two.onnx")


@pytest.mark.parametrize("samples", [1, 5, 9])
def test_validate_a_fixed_batch_size(capsys, tmp_path, samples):
    pytest.importorskip("onnxruntime")
    model = onnx.load(W8A8)
    for v in (*model.graph.input, *model.graph.output):
        v.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "four.onnx")
    code, out, _ = run(capsys, "validate", tmp_path / "four.onnx", "--samples", samples)
    assert code == 0 and f"{max(4, samples // 4 * 4)} samples" in out


def test_bench(capsys):
    code, out, _ = run(capsys, "bench", W8A8, "--batch", "1", "2", "--seconds", "0.05")
    assert code == 0
    assert "batch 1 (ms)" in out and "batch 2 (ms)" in out and "qgemm" in out and _core.active_isa() in out and "1 thread" in out


def test_missing_package_names_the_extra(tmp_path):
    """Without onnx, the message says what to install; one line, exit code 2."""
    code = f"import sys; sys.modules['onnx'] = None; from qgemm.cli import main; sys.exit(main(['inspect', {W8A8!r}]))"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert got.returncode == 2 and "qgemm[onnx]" in got.stderr and "Traceback" not in got.stderr


# ---- demo -----------------------------------------------------------------------------------------------------------------

torch = pytest.importorskip("torch")


def test_demo(capsys):
    code, out, _ = run(capsys, "demo", "--seconds", "0.05", "--batch", "1", "3")
    assert code == 0, out
    for word in (
        "FP32 (torch)",
        "W8A8 qgemm",
        "W4A8 qgemm",
        "W4A8 simulation",
        "torch BF16",
        "batch 3 (ms)",
        _core.active_isa(),
        "classifier",
    ):
        assert word in out, word
    assert "BROKEN" not in out


def test_demo_agreement_is_exact_on_every_isa():
    """The engine gives the same bits on every path, so the share of equal logits is one number, whatever the machine."""
    from qgemm import demo, load

    data = demo.shipped()
    images = data.images[:100]
    for scheme in demo.SCHEMES:
        program = load(DATA / f"digits_{scheme.lower()}.onnx")
        want = program(images)
        try:
            for isa in _core.available_isas():
                _core.force_isa(isa)
                # A program packs for the CPU path active when it is loaded.
                again = load(DATA / f"digits_{scheme.lower()}.onnx")
                assert np.array_equal(again(images), want), isa
        finally:
            _core.force_isa(None)


def test_demo_notices_broken_agreement(monkeypatch, capsys):
    from qgemm import demo

    data = demo.shipped()
    data.simulated["W8A8"] += np.float32(1)
    monkeypatch.setattr(demo, "shipped", lambda: data)
    code, out, _ = run(capsys, "demo", "--batch")
    assert code == 1 and "AGREEMENT BROKEN for W8A8:" in out


def test_demo_with_damaged_data(monkeypatch, capsys, tmp_path):
    from qgemm import demo

    (tmp_path / "digits_test.npz").write_bytes((DATA / "digits_test.npz").read_bytes()[:1000])
    monkeypatch.setattr(demo, "DATA", tmp_path)
    assert "digits_test.npz" in fails(capsys, "demo", "--batch")


def test_shipped_data_is_small_and_held_out():
    from qgemm import demo

    assert sum(p.stat().st_size for p in DATA.iterdir()) < 1_000_000
    data = demo.shipped()
    assert data.images.shape == (500, 1, 28, 28) and data.images.min() == 0 and data.images.max() == 1
    assert len(set(map(bytes, data.images))) == 500 and set(data.labels.tolist()) == set(range(10))


# ---- timing ---------------------------------------------------------------------------------------------------------------


def test_interleave_takes_turns():
    calls = []
    contenders = {n: (lambda n=n: calls.append(n)) for n in "abc"}
    timings = bench.interleave(contenders, seconds=0, warmup=1, min_rounds=50)
    rounds = ["".join(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert len(rounds) == 51 and all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(set(rounds)) == 6  # every order occurs: nobody always follows the same one
    assert [t.name for t in timings] == ["a", "b", "c"] and all(len(t.seconds) == 50 and t.minimum <= t.median for t in timings)


def test_interleave_refuses_nonsense():
    with pytest.raises(ConfigError, match="contender"):
        bench.interleave({})
    with pytest.raises(ConfigError, match="min_rounds"):
        bench.interleave({"a": int}, min_rounds=3, max_rounds=2)


def test_table_of_ratios():
    fast, slow = bench.Timing("fast", (0.001, 0.002, 0.003)), bench.Timing("slow", (0.004, 0.004, 0.004))
    lines = bench.table({"batch 1": [slow, fast]}, baseline="slow").splitlines()
    assert lines[2].split() == ["slow", "4.000", "4.000", "1.00x"] and lines[3].split() == ["fast", "1.000", "2.000", "2.00x"]


def test_threads_are_set_in_the_runtime_that_runs_the_kernels():
    before = _core.max_threads()
    try:
        for n in (1, 2):
            cli._set_threads(n)
            assert _core.max_threads() == n
    finally:
        cli._set_threads(before)


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="no /proc/cpuinfo")
def test_conditions_name_the_cpu():
    assert bench.cpu_name() in bench.conditions() and "thread" in bench.conditions()
