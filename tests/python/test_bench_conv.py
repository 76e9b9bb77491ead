"""The convolution benchmark: its shapes, its reference, its contenders and its report. No time is asserted anywhere."""

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

from harness import measure, peak, summary  # noqa: E402
from harness.conv import contenders, report, shapes  # noqa: E402

BENCHMARK = report.Conv()
SETTINGS = measure.Settings(repeats=2, seconds_per_row=0.0, min_sample=1e-5)
ENTRIES = {
    "plain": {"size": [7, 6], "in": 12, "out": 20, "kernel": [3, 3], "padding": [1, 1]},
    "first": {"size": [9, 11], "in": 3, "out": 16, "kernel": [7, 7], "stride": [2, 2], "padding": [3, 3]},
    "dilated": {"size": [9, 8], "in": 8, "out": 8, "kernel": [3, 3], "dilation": [2, 2], "padding": [2, 2]},
    "depthwise": {"size": [8, 9], "in": 24, "out": 24, "kernel": [5, 5], "padding": [2, 2], "groups": 24},
    "grouped": {"size": [6, 6], "in": 16, "out": 32, "kernel": [3, 3], "padding": [1, 1], "groups": 4},
    "line": {"size": [40], "in": 16, "out": 24, "kernel": [5], "stride": [2], "padding": [2]},
    "long": {"size": [50], "in": 32, "out": 32, "kernel": [9], "padding": [4], "groups": 32},
    "grow": {"size": [5, 4], "in": 16, "out": 8, "kernel": [3, 3], "stride": [2, 2], "padding": [1, 1], "transposed": True},
    "grow odd": {
        **{"size": [4, 5], "in": 8, "out": 16, "kernel": [4, 3], "stride": [2, 2], "padding": [1, 1]},
        **{"output_padding": [0, 1], "transposed": True, "groups": 2},
    },
}


def shape(name: str, batch: int = 1) -> shapes.Conv:
    return next(s for s in shapes.LISTS.read(ENTRIES[name], (name,)) if s.batch == batch)


@pytest.mark.parametrize("name", ENTRIES)
def test_sizes_and_reference_agree_with_torch(name):
    p = shape(name, 8).problem()
    x = torch.from_numpy(p.x).permute(0, 3, 1, 2).double().sub(p.x_zero_point) * p.x_scale
    scale, bias = torch.from_numpy(p.w_scale).double(), torch.from_numpy(p.bias).double()
    if p.shape.transposed:
        w = torch.from_numpy(p.w_transposed).double() * scale[0]
        y = torch.nn.functional.conv_transpose2d(x, w, bias, p.stride, p.padding, p.output_padding, p.groups, p.dilation)
    else:
        w = torch.from_numpy(p.w).double() * scale[:, None, None, None]
        y = torch.nn.functional.conv2d(x, w, bias, p.stride, p.padding, p.dilation, p.groups)
    q = (y / p.out_scale).round().add(p.out_zero_point).clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert q.shape == p.out_shape
    np.testing.assert_array_equal(p.reference("u8"), q[p.at][:, p.channels])
    right = q.astype(np.uint8)
    assert p.check(right, "u8") is None
    wrong = right.copy()
    wrong[p.at[0][0], p.at[1][0], p.at[2][0], p.channels[0]] ^= 2
    assert p.check(wrong, "u8").startswith("wrong result: off by 2")
    assert "wrong shape" in p.check(right[:, 1:], "u8")


def test_a_result_that_is_wrong_outside_the_sample_is_refused():
    entry = {"size": [40, 40], "in": 8, "out": 64, "kernel": [1, 1]}
    p = shapes.LISTS.read(entry, ())[0].problem()
    y = p._sums(p.x, p.x_zero_point)  # of the sample only
    assert y.shape == (len(p.at[0]), len(p.channels))
    x = (p.x.astype(np.float64) - p.x_zero_point) * p.x_scale
    whole = x @ (p.w[:, :, 0, 0] * p.w_scale[:, None].astype(np.float64)).T + p.bias
    q = np.clip(np.rint(whole / p.out_scale) + p.out_zero_point, 0, 255).astype(np.uint8)
    assert p.check(q, "u8") is None
    q[0, 10, 10, 1] ^= 128
    assert p.check(q, "u8") == "wrong result: off by 128 outside the sample"


@pytest.mark.parametrize("name", ENTRIES)
def test_every_contender_that_is_installed_is_right_or_known_to_be_wrong(name):
    kept, dropped = measure.usable(contenders.all_contenders(), 1, BENCHMARK.trials())
    assert all("installed" in reason or "built without" in reason or "import" in reason for reason in dropped.values()), dropped
    row = measure.measure_row(shape(name), kept, 1, SETTINGS, peak.Peak([]), lambda label, contender: None)
    taking = {c.name for c in kept if c.takes(shape(name))}
    # Peers of which some version computes transposed convolutions wrongly, or has none with groups.
    allowed = {c.name for c in kept if not c.ours} if shape(name).transposed else set()
    assert set(row["failed"]) <= allowed and {r["contender"] for r in row["results"]} == taking - set(row["failed"])
    assert row["family"] in shapes.FAMILIES and row["ops"] == shape(name).ops


def test_labels_families_and_operations():
    assert shape("plain").label == "b1 7x6 12->20 3x3" and shape("plain").family == "3x3"
    assert shape("first", 8).label == "b8 9x11 3->16 7x7 s2" and shape("first").family == "first layer"
    assert shape("dilated").label == "b1 9x8 8->8 3x3 d2"
    assert shape("depthwise").label == "b1 8x9 24 5x5 dw" and shape("depthwise").family == "depthwise"
    assert shape("grouped").label == "b1 6x6 16->32 3x3 g4" and shape("grouped").ops == 2 * 36 * 9 * 4 * 32
    assert shape("grow odd").label == "b1 4x5 8->16 4x3 s2 g2 T op0x1"
    assert shape("grow").ops == 2 * 20 * 9 * 16 * 8


def test_the_lists_are_valid_and_distinct():
    everything = shapes.LISTS.load(shapes.LISTS.available())
    labels = [s.label for s in everything]
    assert len(labels) == len(set(labels)) and {s.batch for s in everything} == set(shapes.BATCHES)
    assert {s.family for s in everything} == set(shapes.FAMILIES)
    assert {"b1 56x56 64->64 3x3", "b1 224x224 3->64 7x7 s2", "b8 112x112 96 3x3 s2 dw", "b1 1000 128 k31 dw"} <= set(labels)


@pytest.mark.parametrize(
    "entry",
    [
        {"size": [7, 6], "in": 12, "out": 20, "kernel": [3]},
        {"size": [7, 6], "in": 12, "out": 20, "kernel": [9, 9]},
        {"size": [7, 6], "in": 12, "out": 20, "kernel": [3, 3], "groups": 5},
        {"size": [7, 6], "in": 12, "out": 20},
        {"size": [7, 6, 5], "in": 12, "out": 20, "kernel": [1, 1, 1]},
    ],
)
def test_a_bad_list_is_refused(tmp_path, entry):
    (tmp_path / "bad.json").write_text(json.dumps({"about": "", "convs": [entry]}))
    with pytest.raises(SystemExit, match=r"bad\.json"):
        shapes.LISTS.load([str(tmp_path / "bad.json")])


def conv(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, BENCH / "conv.py", *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "said"), [(("--batch", "3"), "batch sizes are 1, 8"), (("--family", "deep"), "nothing is called 'deep'")]
)
def test_bad_arguments(arguments, said):
    done = conv(*arguments)
    assert done.returncode != 0 and said in done.stderr and not done.stdout


def test_a_run_writes_its_reports_and_two_runs_merge(tmp_path):
    pytest.importorskip("matplotlib")
    entries = [e | {"what": name} for name, e in ENTRIES.items() if name in ("plain", "depthwise", "grow")]
    (tmp_path / "tiny.json").write_text(json.dumps({"about": "for the test", "convs": entries}))
    common = ("--shapes", tmp_path / "tiny.json", "--peers", "x86,fp32", "--threads", "1", "--no-peak", "--repeats", "2")
    common += ("--seconds-per-row", "0", "--min-sample-ms", "0.01")
    for batch in (1, 8):
        done = conv(*common, "--batch", batch, "--json", tmp_path / f"{batch}.json")
        assert done.returncode == 0, done.stderr
    outputs = ("--json", tmp_path / "r.json", "--markdown", tmp_path / "r.md", "--plot", tmp_path / "r.png")
    done = conv("--merge", tmp_path / "1.json", tmp_path / "8.json", *outputs)
    assert done.returncode == 0, done.stderr
    data, text = json.loads((tmp_path / "r.json").read_text()), (tmp_path / "r.md").read_text()
    assert data["benchmark"] == "conv" and len(data["rows"]) == 6
    names = summary.Names(data["contenders"])
    for row in data["rows"]:
        assert f"| {row['shape']} | 1 |" in text
        assert len(BENCHMARK.cells(row, names, "median")) == len(BENCHMARK.columns)
    assert {"all, against the best u8 peer", "batch 8", "depthwise", "all, against FP32"} <= set(data["summary"]["comparisons"])
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert conv("--merge", tmp_path / "r.md").returncode != 0
