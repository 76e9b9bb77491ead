"""bench/products.py: the operands' checks, every contender that is installed, the lists and the summary. No time is asserted anywhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
if not BENCH.is_dir():
    pytest.skip("a source distribution has no bench folder", allow_module_level=True)
sys.path.insert(0, str(BENCH))

from harness import measure, peak, summary  # noqa: E402
from harness.products import contenders, report, shapes  # noqa: E402
from harness.products.shapes import Product  # noqa: E402

BENCHMARK = report.Products("for the test")
SETTINGS = measure.Settings(repeats=2, seconds_per_row=0.0, min_sample=1e-5)
# Tails in every dimension.
SAMPLES = [
    Product("signed", 19, 83, (53,)),
    Product("wide", 19, 83, (53,)),
    Product("shared", 7, 40, (24, 8, 5)),
    Product("attention", 11, 21, (37,), 3, True),
    Product("attention", 11, 21, (37,), 3),
]


@pytest.fixture(scope="module")
def kept():
    pytest.importorskip("torch")
    kept, dropped = measure.usable(contenders.all_contenders(), 1, BENCHMARK.trials())
    unavailable = ("installed", "built without", "import")
    # onednn's qlinear has no int8 input in some versions of torch, and says so; onnxruntime 1.32 is a hundred steps off on uint16.
    known = {name for name in dropped if "onednn" in name or name == "ORT QDQ u16"}
    assert all(name in known or any(word in reason for word in unavailable) for name, reason in dropped.items()), dropped
    return kept


@pytest.mark.parametrize("shape", SAMPLES, ids=lambda s: s.label)
def test_every_contender_that_is_installed_is_right(shape, kept):
    row = measure.measure_row(shape, kept, 1, SETTINGS, peak.Peak([]), lambda label, contender: None)
    assert row["failed"] == {} and row["kind"] == shape.kind
    assert {r["contender"] for r in row["results"]} == {c.name for c in kept if c.takes(shape)}
    described = [{"name": c.name, "output": c.output, "ours": c.ours} for c in kept]
    cells = BENCHMARK.cells(row, summary.Names(described), "median")
    assert len(cells) == len(BENCHMARK.columns) and cells[0] == shape.label and "missing" not in cells


@pytest.mark.parametrize("shape", SAMPLES, ids=lambda s: s.label)
def test_wrong_results_are_told(shape):
    problem = shape.problem()
    size = (shape.batch, shape.m, shape.n) if shape.kind == "attention" else (shape.m, shape.n)
    for output in report.OUTPUTS[shape.kind]:
        assert "wrong result" in problem.check(np.zeros(size, np.int64), output)
        assert "wrong shape" in problem.check(np.zeros(size[::-1]), output)


def test_references_follow_the_definitions():
    signed = Product("signed", 4, 9, (7,)).problem()
    sums = (signed.x.astype(np.int64) - signed.x_zero_point) @ signed.base.w.astype(np.int64).T
    assert signed.check(sums, "s8 s32") is None and "off by 1 " in signed.check(sums + 1, "s8 s32")
    q = np.rint((sums * (signed.base.x_scale * signed.base.w_scale) + signed.base.bias) / signed.base.out_scale)
    assert signed.check(np.clip(q + signed.out_zero_point, -128, 127), "s8") is None
    a = Product("attention", 4, 9, (7,), 2, True).problem()
    assert np.array_equal(a.b_stored.swapaxes(1, 2), a.b)
    sums = (a.a.astype(np.int64) - a.a_zero_point) @ (a.b.astype(np.int64) - a.b_zero_point)
    assert a.check(sums, "product s32") is None
    x, w = a.float_operands()
    assert a.check(x @ w.swapaxes(1, 2), "fp32") is None and a.check(x @ w.swapaxes(1, 2) * 1.01, "fp32") is not None


def test_lists_are_valid():
    everything = shapes.load(shapes.available())
    assert {s.kind for s in everything} == set(shapes.KINDS)
    labels = [s.label for s in everything]
    assert len(labels) == len(set(labels))
    assert {"s8 128x768x3072", "u16 64x64x64", "128x768x768+768+768", "12*128x64x128 T"} <= set(labels)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"kind": "other", "m": 1, "k": 1, "n": 1}, "kind is 'other'"),
        ({"kind": "signed", "m": 0, "k": 1, "n": 1}, "whole numbers"),
        ({"kind": "shared", "m": 1, "k": 1, "n": 1}, "not a shape list"),
        ({"kind": "wide", "m": 1, "k": 1, "n": 1, "batch": 2}, "belong to the kind attention"),
    ],
)
def test_a_bad_list_is_refused(tmp_path, entry, said):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"about": "bad", "products": [entry]}))
    with pytest.raises(SystemExit, match=said):
        shapes.load([str(path)])


def synthetic(shape: Product, **milliseconds: float) -> dict:
    results = [
        {"contender": n.replace("_", " "), "seconds": {"min": t / 2e3, "median": t / 1e3, "iqr": 0.0}, "gops": 1.0, "noisy": False}
        for n, t in milliseconds.items()
    ]
    fields = {"shape": shape.label, **shape.fields(), "ops": shape.ops, "threads": 1, "peak_gops": None}
    return {**fields, "results": results, "failed": {}, "uses": []}


def test_summary_compares_like_with_like():
    described = [
        {"name": name, "output": output, "ours": name.startswith("qgemm")}
        for name, output in (("qgemm s8", "s8"), ("qgemm u8", "u8"), ("qgemm u16", "u16"), ("peer s8", "s8"), ("torch FP32", "fp32"))
    ]
    rows = [
        synthetic(Product("signed", 16, 64, (64,)), qgemm_s8=1.0, qgemm_u8=0.9, peer_s8=2.0, torch_FP32=8.0),
        synthetic(Product("wide", 16, 64, (64,)), qgemm_u16=2.0, qgemm_u8=1.0, torch_FP32=5.0),
    ]
    s = BENCHMARK.summarize(rows, described, "median")
    assert s["comparisons"]["signed: s8, against the best peer with that output"]["geometric_mean"] == pytest.approx(2.0)
    assert s["comparisons"]["wide: u16, against FP32"]["geometric_mean"] == pytest.approx(2.5)
    assert "wide: u16, against the best peer with that output" not in s["comparisons"]
    assert s["of_u8"]["signed"]["geometric_mean"] == pytest.approx(0.9) and s["of_u8"]["wide"]["worst"]["ratio"] == pytest.approx(0.5)
