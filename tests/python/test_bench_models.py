"""The benchmark of whole networks: its networks, its judge, its report. No time is asserted anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
if not BENCH.is_dir():
    pytest.skip("a source distribution has no bench folder", allow_module_level=True)
sys.path.insert(0, str(BENCH))
torch = pytest.importorskip("torch")

from harness import summary  # noqa: E402
from harness.models import report, shapes  # noqa: E402
from networks import audio, bert, unet, zoo  # noqa: E402

BENCHMARK = report.Models()


def test_the_lists_name_networks_of_the_zoo():
    everything = shapes.LISTS.load(shapes.LISTS.available())
    assert {s.name for s in everything} == set(zoo.NAMES)
    assert {s.batch for s in everything} == set(shapes.BATCHES) and len(everything) == 2 * len(zoo.NAMES)


def test_own_networks_have_their_shapes():
    with torch.inference_mode():
        assert audio.AudioNet().eval()(zoo.inputs("audio", 2)).shape == (2, 35)
        assert unet.UNet(width=8).eval()(torch.zeros(1, 3, 32, 48)).shape == (1, 8, 32, 48)
        small = bert.Encoder(1, 64, 4, 128).eval()
        assert small(zoo.inputs("minilm_l6", 2)).shape == (2, 64)


def test_the_audio_network_over_images_is_the_same():
    net, x = zoo.build("audio"), zoo.inputs("audio", 2)
    with torch.inference_mode():
        torch.testing.assert_close(audio.AsImages(net)(x), net(x), atol=1e-4, rtol=1e-4)


def test_a_network_is_the_same_each_time_and_keeps_its_spread():
    a, b = zoo.build("audio"), zoo.build("audio")
    x = zoo.inputs("audio", 2)
    with torch.inference_mode():
        assert torch.equal(a(x), b(x)) and 0.05 < float(a(x).std()) < 20


def test_the_judge():
    p = shapes.Network("audio", 1).problem()
    right = p.reference
    assert p.check(right, "fp32") is None and p.describe(right)["sqnr_db"] == 999.0
    noisy = right + np.float32(0.1) * np.abs(right).mean() * np.random.default_rng(0).standard_normal(right.shape, dtype=np.float32)
    assert p.check(noisy, "int8") is None and "expected" in p.check(noisy, "fp32")
    assert "wrong result" in p.check(np.full_like(right, np.nan), "int8") and "wrong shape" in p.check(right[:, 1:], "int8")


def row(label: str, threads: int, **milliseconds: float) -> dict:
    model, batch = label.split(" b")
    results = [
        {"contender": n, "seconds": {"min": t / 1e3, "median": t / 1e3, "iqr": 0.0}, "gops": 0.0, "noisy": False, "sqnr_db": 20.0}
        for n, t in milliseconds.items()
    ]
    about = {"shape": label, "model": model, "batch": int(batch), "threads": threads, "ops": 0, "peak_gops": None}
    return about | {"results": results, "failed": {}}


def test_summary_and_cells():
    described = [
        {"name": "qgemm, QDQ file", "output": "int8", "ours": True},
        {"name": "qgemm.quantize", "output": "int8", "ours": True},
        {"name": "ORT QDQ", "output": "int8", "ours": False},
        {"name": "torch FP32", "output": "fp32", "ours": False},
    ]
    rows = [
        row("resnet18 b1", 1, **{"qgemm, QDQ file": 2.0, "qgemm.quantize": 1.0, "ORT QDQ": 3.0, "torch FP32": 10.0}),
        row("resnet18 b8", 1, **{"qgemm.quantize": 4.0, "ORT QDQ": 2.0}),
    ]
    s = BENCHMARK.summarize(rows, described, "median")["comparisons"]
    assert s["against the best int8 peer"]["geometric_mean"] == pytest.approx((1.5 * 0.5) ** 0.5)
    assert s["against torch FP32"]["rows"] == 1 and s["batch 8"]["worst"]["ratio"] == 0.5
    cells = BENCHMARK.cells(rows[0], summary.Names(described), "median")
    assert len(cells) == len(BENCHMARK.columns) and cells[2] == "2.00" and cells[7] == "1.50" and cells[10] == "5.00"


def test_a_result_far_from_its_class_is_doubted():
    described = [{"name": n, "output": "int8", "ours": False} for n in ("a", "b", "c", "d")] + [
        {"name": "e", "output": "fp32", "ours": False}
    ]
    one = row("resnet18 b1", 2, a=1.0, b=1.0, c=1.0, d=1.0, e=1.0)
    for r, db in zip(one["results"], (20.0, 21.0, 22.0, 9.0, 100.0), strict=True):
        r["sqnr_db"] = db
    assert report.doubtful({"contenders": described, "rows": [one]}) == [
        "doubtful: d on resnet18 b1, 2 thr.: 9.0 dB to float32, usual for int8 20.5"
    ]


def test_a_run_on_the_smallest_network(tmp_path):
    for module in ("onnx", "onnxruntime", "matplotlib"):
        pytest.importorskip(module)
    command = [sys.executable, str(BENCH / "models.py"), "--filter", "^audio ", "--batch", "1", "--threads", "1", "--prepare"]
    command += ["--peers", "ORT QDQ,torch fp32", "--artefacts", str(tmp_path), "--json", str(tmp_path / "r.json")]
    command += ["--markdown", str(tmp_path / "r.md"), "--plot", str(tmp_path / "r.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "r.json").read_text())
    (only,) = data["rows"]
    results = {r["contender"]: r for r in only["results"]}
    assert {"qgemm, QDQ file", "qgemm.quantize", "ORT QDQ", "torch FP32"} <= set(results), only["failed"]
    assert results["qgemm, QDQ file"]["sqnr_db"] == pytest.approx(results["ORT QDQ"]["sqnr_db"], abs=3.0)  # of the faster of two files
    ours = results["qgemm, QDQ file"]
    assert ours["load_seconds"] > 0 and ours["first_seconds"] > 0 and 0 < ours["minimum_bytes"] <= ours["arena_bytes"]
    text = (tmp_path / "r.md").read_text()
    assert "| audio b1 | 1 |" in text and "| audio b1 | 1 | qgemm.quantize |" in text.partition("## Loading and memory")[2]
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "audio_b1" / "qdq.onnx").is_file()


@pytest.mark.parametrize(("arguments", "said"), [(("--batch", "3"), "batch sizes are 1, 8"), (("--shapes", "zoo"), "no shape list 'zoo'")])
def test_bad_arguments(arguments, said):
    done = subprocess.run([sys.executable, BENCH / "models.py", *arguments], capture_output=True, text=True)
    assert done.returncode != 0 and said in done.stderr and not done.stdout
