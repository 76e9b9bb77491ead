"""``program.profile`` and what ``qgemm inspect`` says of a program."""

from __future__ import annotations

import math

import numpy as np
import pytest

import qgemm
from qgemm import cli, profiling
from qgemm.errors import ConfigError, ShapeError
from qgemm.inspection import describe, memory
from test_files import DATA

DIGITS = str(DATA / "digits_w8a8.onnx")


@pytest.fixture(scope="module")
def digits():
    return qgemm.load(DIGITS)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((2, 1, 28, 28), dtype=np.float32)


@pytest.fixture(scope="module")
def profile(digits, x):
    return digits.profile(x, seconds=0.05)


def test_a_row_an_operation(profile, digits):
    assert [r.name for r in profile] == [r.name for r in qgemm.report(digits)]
    assert all(r.microseconds > 0 or r.scheme == "bytes" for r in profile)  # views cost nothing
    assert all(0 <= r.share <= 1 for r in profile) and math.isclose(sum(r.share for r in profile), 1)
    assert math.isclose(profile.total, sum(r.microseconds for r in profile)) and profile.calls >= 5
    assert math.isclose(sum(profile.kinds.values()), profile.total)
    assert profile.slowest(2)[0].microseconds == max(r.microseconds for r in profile)


def test_operations_are_counted_from_shapes(profile, x):
    rows = {r.name: r for r in profile}
    stem, classifier = rows["stem"], rows["classifier"]
    # 2 images of 32 channels, 28 x 28 pixels, 1 x 3 x 3 weights each; 2 rows of 64 x 10.
    assert math.isclose(stem.gops * stem.microseconds * 1e3, 2 * 2 * 32 * 28 * 28 * 9)
    assert math.isclose(classifier.gops * classifier.microseconds * 1e3, 2 * 2 * 64 * 10)
    assert rows["depthwise"].output == (2, 48, 14, 14) and math.isclose(stem.peak, stem.gops / profile.peak_gops)
    assert rows["module_add"].gops == 0 and rows["module_add"].kind == "8-bit elementwise"
    assert {rows[n].kind for n in ("stem", "classifier", "pool1")} == {"convolution", "matrix product", "bytes moved"}


def test_it_prints(profile):
    text = str(profile)
    assert text.splitlines()[0].split() == ["layer", "op", "kernel", "output", "us", "share", "GOPS", "of", "peak"]
    assert "depthwise" in text and "14 operations" in text and "peak:" in text


def test_a_float_network_is_profiled_too(rng):
    from onnx_nets import model, node

    program = qgemm.load(model([node("Softmax", ["x"], "y")], {"x": ("float32", ["n", 8])}, ["y"]))
    found = program.profile(np.ones((3, 8), np.float32), seconds=0.01)
    assert [r.kind for r in found] == ["float"] and found[0].gops == 0


def test_wrong_calls(digits, x):
    with pytest.raises(ShapeError):
        digits.profile(x[0])
    with pytest.raises(ConfigError, match="seconds"):
        digits.profile(x, seconds=0)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_plot(profile, tmp_path, ending):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"profile.{ending}"
    profile.plot(path, top=5)
    assert path.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])
    if ending == "png":
        import matplotlib.image

        height, width, _ = matplotlib.image.imread(path).shape
        assert width == 1350 and height > 300
    if ending == "svg":
        text = path.read_text()
        assert "9 others" in text and "conv1" in text and "of peak" in text


def test_plot_to_nowhere(profile, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match="profile.xyz"):
        profile.plot(tmp_path / "profile.xyz")
    with pytest.raises(ConfigError, match="top"):
        profile.plot(tmp_path / "profile.png", top=0)


def test_plot_of_one_operation_and_of_none(tmp_path):
    pytest.importorskip("matplotlib")
    row = profiling.Row("a" * 80, "Conv", "conv2d", 3.0, 1.0, 1.0, "W8A8", 0.5, (1, 2))
    profiling.Profile([row], 5, 2.0, "here").plot(tmp_path / "one.png")
    profiling.Profile([], 0, 2.0, "here").plot(tmp_path / "none.png")
    assert "0 operations" in str(profiling.Profile([], 0, 2.0, "here"))


def test_memory(digits, x):
    m, report = memory(digits, (x,)), qgemm.report(digits)
    assert m.weights == report.weight_bytes and m.at == "conv1"
    # In conv1 its input and output are live, a byte an element, and the caller's own image as floats.
    assert m.peak == 2 * 28 * 28 * (32 + 48) <= m.activations
    assert memory(digits, (x[:1],)).peak == m.peak // 2


def test_describe(digits, x, rng):
    text = describe(digits, (x,))
    assert "input image [?, 1, 28, 28]: uint8" in text and "in float32: nothing" in text
    line = next(line for line in text.splitlines() if line.startswith("module_add"))
    assert "pool1, pointwise" in line and "2 x 48 x 14 x 14" in line and "uint8, scale" in line
    assert "memory for an input of 2 x 1 x 28 x 28" in text
    without = describe(digits, None)
    assert "memory" not in without and "pool1, pointwise" in without
    from onnx_nets import model, node

    program = qgemm.load(model([node("Softmax", ["x"], "y", name="/act/Softmax")], {"x": ("float32", ["n", 8])}, ["y"]))
    assert "in float32:\n  act (Softmax): " in describe(program, None)


def test_inspect_profiles_and_plots(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "p.png"
    assert cli.main(["inspect", DIGITS, "--profile", "--plot", str(picture), "--seconds", "0.05"]) == 0
    out = capsys.readouterr().out
    assert "of peak" in out and "memory for an input of 1 x 1 x 28 x 28" in out and picture.stat().st_size > 10_000


def test_inspect_of_an_open_shape(tmp_path, capsys):
    from onnx_nets import model, node

    net = model([node("Relu", ["x"], "y")], {"x": ("float32", ["n", "c"])}, ["y"])
    path = tmp_path / "open.onnx"
    path.write_bytes(net if isinstance(net, bytes) else net.SerializeToString())
    assert cli.main(["inspect", str(path)]) == 0 and "memory" not in capsys.readouterr().out
    assert cli.main(["inspect", str(path), "--profile"]) == 2 and "--shape" in capsys.readouterr().err
    assert cli.main(["inspect", str(path), "--shape", "1,5", "--profile", "--seconds", "0.01"]) == 0
