"""The benchmark harness: what it measures, checks, compares and says. No time is asserted anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
if not BENCH.is_dir():
    pytest.skip("a source distribution has no bench folder", allow_module_level=True)
sys.path.insert(0, str(BENCH))

from harness import command, contenders, measure, peak, present, shapes, summary, timing  # noqa: E402
from harness import gemm as gemm_benchmark  # noqa: E402
from harness.contenders.base import Contender, Variant  # noqa: E402
from harness.problem import Problem  # noqa: E402
from harness.shapes import Shape  # noqa: E402

BENCHMARK = gemm_benchmark.Gemm()
TRIAL = BENCHMARK.trials()
SETTINGS = measure.Settings(repeats=2, seconds_per_row=0.0, min_sample=1e-5)


def gemm(*arguments: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``path`` goes first on the module path of the process."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (path and str(path), os.environ.get("PYTHONPATH"))))}
    return subprocess.run([sys.executable, BENCH / "gemm.py", *map(str, arguments)], capture_output=True, text=True, env=env)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A whole run over three small shapes, where OpenVINO cannot be imported; with what it printed and wrote."""
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("bench")
    (folder / "openvino.py").write_text("raise ModuleNotFoundError(\"No module named 'openvino'\", name='openvino')\n")
    sizes = [(1, 10, 10), (5, 7, 3), (33, 65, 40)]
    listed = [{"m": m, "k": k, "n": n, "what": f"case {i}"} for i, (m, k, n) in enumerate(sizes)]
    (folder / "tiny.json").write_text(json.dumps({"about": "for the test", "gemms": [*listed, listed[0]]}))
    done = gemm(
        *("--shapes", folder / "tiny.json", "--peers", "_int_mm,openvino,fp32", "--threads", "1", "--no-peak"),
        *("--repeats", "2", "--seconds-per-row", "0", "--min-sample-ms", "0.01"),
        *("--json", folder / "r.json", "--markdown", folder / "r.md", "--plot", folder / "r.png"),
        path=folder,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "r.json").read_text()), (folder / "r.md").read_text(), folder / "r.png", done.stdout


def test_json_has_conditions_rows_and_summary(report):
    data = report[0]
    assert data["schema"] == 1 and data["benchmark"] == "gemm"
    assert {"cpu", "isa", "features", "physical_cores", "load", "versions", "system"} <= set(data["machine"])
    assert {"python", "numpy", "torch"} <= set(data["machine"]["versions"])
    assert data["settings"]["repeats"] == 2 and data["cpus"].keys() == {"1"} and len(data["cpus"]["1"]) == 1
    assert data["peak_not_measured"] == {"1": "--no-peak"}
    assert [row["shape"] for row in data["rows"]] == ["1x10x10", "5x7x3", "33x65x40"]
    present_ = {c["name"] for c in data["contenders"] if not c["missing"]}
    for row in data["rows"]:
        assert {r["contender"] for r in row["results"]} == present_ and not row["failed"]
        assert row["threads"] == 1 and row["peak_gops"] is None and row["uses"][0].startswith("tiny: case")
        for r in row["results"]:
            assert 1 <= r["samples"] <= 2 and r["inner"] >= 1 and isinstance(r["noisy"], bool)
            assert 0 < r["seconds"]["min"] <= r["seconds"]["median"] and r["seconds"]["iqr"] >= 0
            operations = 2 * row["m"] * row["k"] * row["n"]
            assert r["gops"] == pytest.approx(operations / r["seconds"]["median"] * 1e-9)
    comparisons = data["summary"]["comparisons"]
    assert comparisons["s32 against the best peer with s32 out"]["rows"] == 3
    assert comparisons["u8 against FP32, M >= 16"]["rows"] == 1
    assert "u8 against the best peer with u8 out" not in comparisons  # the only peer with u8 out is missing


def test_a_missing_peer_is_named_everywhere(report):
    data, text, _, printed = report
    missing = {c["name"]: c["missing"] for c in data["contenders"] if c["missing"]}
    assert missing == {name: "openvino is not installed" for name in ("OpenVINO u8", "OpenVINO dynamic")}
    for out in (text, printed):
        assert "missing: OpenVINO u8: openvino is not installed" in out


def test_markdown_and_plot(report):
    data, text, picture, printed = report
    for row in data["rows"]:
        assert f"| {row['shape']} | 1 |" in text and row["shape"] in printed
    assert data["machine"]["cpu"] in text and "## All contenders, 1 thread: GOPS" in text and "## M <= 8" in text
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--peers", "nonesuch"), "nothing is called 'nonesuch'"),
        (("--threads", "4096"), "physical cores"),
        (("--threads", "two"), "takes numbers"),
        (("--repeats", "0"), "--repeats must be at least 1"),
        (("--filter", "("), "is not a regular expression"),
        (("--filter", "^no such shape$"), "no shape matches"),
        (("--shapes", "nonesuch"), "no shape list 'nonesuch'"),
        (("--json", "no/such/folder/r.json"), "no folder"),
    ],
)
def test_bad_arguments_end_before_anything_is_measured(arguments, said):
    done = gemm(*arguments)
    assert done.returncode != 0 and said in done.stderr and not done.stdout


def test_every_contender_that_is_installed_is_right():
    """On a shape with a tail in every dimension."""
    shape, settings = Shape(19, 83, 53), SETTINGS
    chosen = [c for c in contenders.all_contenders() if c.library != "torchao"]  # compiles for seconds
    kept, dropped = measure.usable(chosen, 1, TRIAL)
    assert all("installed" in reason or "built without" in reason or "import" in reason for reason in dropped.values()), dropped
    row = measure.measure_row(shape, kept, 1, settings, peak.Peak([]), lambda label, contender: None)
    assert row["failed"] == {} and {r["contender"] for r in row["results"]} == {c.name for c in kept}


class Wrong(Contender):
    """Delivers ``value`` everywhere, or raises it."""

    library = "none"

    def __init__(self, output, value):
        self.name, self.output, self.value = f"wrong {output}", output, value

    def prepare(self, problem, threads):
        if isinstance(self.value, Exception):
            raise self.value
        return [Variant(lambda: None, lambda: np.full((problem.m, problem.n), self.value))]


WORKER = """
import argparse, json, os, pathlib, signal
p = argparse.ArgumentParser()
p.add_argument("--threads"); p.add_argument("--worker"); p.add_argument("--only"); p.add_argument("--ended")
args = p.parse_args()
path, ended, rows = pathlib.Path(args.worker), json.loads(args.ended), []
for label in json.loads(args.only):
    for name in ("fine", "crashes"):
        if label != "a" and name not in ended.get(label, {}):
            path.with_suffix(".at").write_text(json.dumps([label, name if label == "b" else None]))
            if name == "crashes":
                os.kill(os.getpid(), signal.SIGTERM)
    rows.append({"shape": label, "failed": ended.get(label, {})})
    path.write_text(json.dumps({"rows": rows}))
"""


def test_a_contender_that_ends_its_process_is_named_and_the_rest_measured(tmp_path, monkeypatch, capfd):
    """In row b one does while it is prepared; in row c something does while contenders take turns."""
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "worker.py")])
    pieces, interrupted = command.measure_part(tmp_path, 0, 1, ["a", "b", "c"], [])
    rows = {row["shape"]: row["failed"] for piece in pieces for row in piece["rows"]}
    assert not interrupted and rows == {"a": {}, "b": {"crashes": "ended the process with SIGTERM"}}
    assert "no row for c: the process ended while contenders took turns" in capfd.readouterr().err


def test_a_result_that_is_wrong_after_its_turns_is_dropped():
    class Decays(Contender):
        name, library, output = "decays", "none", "u8"

        def prepare(self, problem, threads):
            calls = []
            return [Variant(lambda: calls.append(1), lambda: np.full(1, max(0, len(calls) - 1)))]

    class Judge:
        label, ops, uses = "x", 0, ()

        def problem(self):
            return self

        def fields(self):
            return {}

        def check(self, result, output, bias, zero_point):
            return "wrong result" if np.any(result) else None

    row = measure.measure_row(Judge(), [Decays()], 1, SETTINGS, peak.Peak([]), lambda label, contender: None)
    assert row["results"] == [] and row["failed"] == {"decays": "right at first, but not after its turns: wrong result"}


@pytest.mark.parametrize("output", contenders.OUTPUTS)
@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_wrong_result_is_dropped_with_the_reason(output, value):
    kept, dropped = measure.usable([Wrong(output, value)], 1, TRIAL)
    assert kept == [] and "wrong result" in dropped[f"wrong {output}"]


def test_a_contender_that_raises_is_dropped_with_its_message():
    kept, dropped = measure.usable([Wrong("u8", RuntimeError("no kernel\nfor this"))], 1, TRIAL)
    assert kept == [] and dropped == {"wrong u8": "RuntimeError: no kernel"}


def test_reference_follows_the_definition():
    p = Problem(Shape(3, 5, 4))
    x, w = p.x.astype(np.int64) - p.x_zero_point, p.w.astype(np.int64)
    accumulator = x @ w.T
    y = accumulator * (p.x_scale * p.w_scale.astype(np.float64)) + p.bias
    np.testing.assert_array_equal(p.reference("s32"), accumulator)
    np.testing.assert_allclose(p.reference("f32"), y, rtol=1e-12)
    np.testing.assert_array_equal(p.reference("u8"), np.clip(np.rint(y / p.out_scale) + p.out_zero_point, 0, 255))
    np.testing.assert_array_equal(p.reference("s32", zero_point=False), p.x.astype(np.int64) @ w.T)
    assert p.check(accumulator, "s32") is None
    assert p.check(accumulator + 1, "s32") == "wrong result: off by 1 where 0 is allowed"
    assert "wrong shape" in p.check(accumulator.T, "s32")


def test_interleave_rotates_and_counts():
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    series = timing.interleave(calls, repeats=4, seconds=10.0, at_least=1e-9)
    assert {name: len(s.samples) for name, s in series.items()} == {"a": 4, "b": 4, "c": 4}
    # A turn is an untimed call and a sample, here of one call; every round starts with the next contender.
    assert "".join(order[-24:]) == "aabbcc" + "bbccaa" + "ccaabb" + "aabbcc"
    assert timing.interleave({}, repeats=2, seconds=0.0) == {}


def test_series_statistics():
    s = timing.Series(1, [1.0, 2.0, 3.0, 4.0, 5.0])
    assert (s.minimum, s.median, s.iqr, s.noisy) == (1.0, 3.0, 2.0, True)
    assert timing.Series(1, [2.0]).iqr == 0.0


def synthetic(shape: Shape, threads: int, **milliseconds: float) -> dict:
    """A row with these medians; keyword u8_ours is the contender 'u8 ours'."""
    results = [
        {"contender": n.replace("_", " "), "seconds": {"min": t / 2e3, "median": t / 1e3, "iqr": 0.0}, "gops": 1.0, "noisy": False}
        for n, t in milliseconds.items()
    ]
    size = {"shape": shape.label, **shape.fields(), "ops": shape.ops}
    return {**size, "threads": threads, "peak_gops": 1000.0, "results": results, "failed": {}, "uses": []}


def test_summary_compares_like_with_like():
    described = [
        {"name": "u8 ours", "output": "u8", "ours": True},
        {"name": "u8 peer", "output": "u8", "ours": False},
        {"name": "s32 peer", "output": "s32", "ours": False},
        {"name": "torch FP32", "output": "fp32", "ours": False},
    ]
    big, small = Shape(512, 512, 512), Shape(1, 64, 64)
    rows = [
        synthetic(big, 1, u8_ours=1.0, u8_peer=2.0, s32_peer=0.5, torch_FP32=6.0),
        synthetic(big, 2, u8_ours=0.5, u8_peer=0.25, s32_peer=1.0, torch_FP32=3.0),
        synthetic(small, 1, u8_ours=1.0, u8_peer=8.0, torch_FP32=100.0),
    ]
    s = BENCHMARK.summarize(rows, described, "median")
    same = s["comparisons"]["u8 against the best peer with u8 out"]
    assert same["rows"] == 3 and same["first"] == pytest.approx(2 / 3)
    assert same["geometric_mean"] == pytest.approx((2 * 0.5 * 8) ** (1 / 3))
    assert same["worst"] == {"ratio": 0.5, "shape": big.label, "threads": 2, "peer": "u8 peer"}
    every = s["comparisons"]["u8 against the best peer of any kind"]
    assert every["geometric_mean"] == pytest.approx((0.5 * 0.5 * 8) ** (1 / 3)) and every["worst"]["ratio"] == 0.5
    assert s["comparisons"]["u8 against FP32, M >= 16"]["geometric_mean"] == pytest.approx(6.0)
    assert s["scaling"]["2"] == {"rows": 1, "geometric_mean": pytest.approx(2.0), "worst": {"ratio": 2.0, "shape": big.label}}
    assert s["percent_of_peak"]["least"] == pytest.approx(100 * big.ops * 1e-9 / 1e-3 / 1000)


def test_the_terminal_table_lines_up():
    described = [{"name": "qgemm u8", "output": "u8", "ours": True}, {"name": "peer", "output": "u8", "ours": False}]
    row = synthetic(Shape(3136, 64, 256), 2, **{"qgemm u8": 1.0, "peer": 1.5})
    values = BENCHMARK.cells(row, summary.Names(described), "median")
    columns = BENCHMARK.columns
    assert len(values) == len(columns) and values[:2] == ["3136x64x256", "2"] and values[5] == "1.50"
    printed, head = present.line(values, columns), present.heading(columns)
    assert printed.index("1.50") + 4 == head.index("ratio") + 5


def test_shape_lists_are_valid_and_merge():
    everything = shapes.load(shapes.available())
    labels = [s.label for s in everything]
    assert len(labels) == len(set(labels))
    assert {"2048x2048x2048", "3136x64x256", "196x256x1024", "64x64x64", "7x333x129", "1x10x10", "4x4096x4096"} <= set(labels)
    fully_connected = next(s for s in everything if s.label == "1x2048x1000")
    assert {u.split(":")[0] for u in fully_connected.uses} == {"regimes", "resnet50"}
    assert [s.label for s in shapes.load(["regimes"], "^3136x")] == ["3136x64x256"]


@pytest.mark.parametrize("text", ["[]", "{", '{"gemms": [{"m": 1, "k": 2}]}', '{"gemms": [{"m": 0, "k": 2, "n": 3}]}'])
def test_a_bad_shape_list_is_refused(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(SystemExit, match=r"bad\.json"):
        shapes.load([str(tmp_path / "bad.json")])


def test_peak_that_cannot_be_measured_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(peak, "BUILD", tmp_path)
    limit = peak.Peak([0])
    assert limit.gops() is None and "is not built" in limit.reason
    monkeypatch.setenv("PATH", str(tmp_path))
    assert peak.build() == "cmake: No such file or directory"
