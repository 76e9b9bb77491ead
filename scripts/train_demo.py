#!/usr/bin/env python3
"""Make the files of ``qgemm demo``: train a small network on MNIST, quantize it with AIMET, export it, record the simulation.

    python scripts/train_demo.py              # writes python/qgemm/data; about two minutes on one core

Needs the extras ``aimet`` and ``demo``. Of the 5000 digits of scripts/fetch_assets.py, 500 are held back: they are the shipped test
images, and neither training nor calibration sees them. The seed is fixed; another torch version or CPU may still round differently
and so give other weights, which is why the recorded outputs are shipped beside the weights they belong to.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from pathlib import Path

import numpy as np
import torch

import fetch_assets
from qgemm.demo import DATA, SCHEMES, DigitNet

TEST = 500
CALIBRATION = 512


def split(seed: int):
    """(train images, labels), (test images, labels): float32 [n, 1, 28, 28] in [0, 1], int64 [n], shuffled, without overlap."""
    images, labels = fetch_assets.mnist()
    order = np.random.default_rng(seed).permutation(len(labels))
    # MNIST repeats no image, but a twin on both sides would be a leak: compare them.
    test, train = order[:TEST], order[TEST:]
    seen = {images[i].tobytes() for i in train}
    assert not any(images[i].tobytes() in seen for i in test), "a test image is also a training image"
    return (images[train], labels[train]), (images[test], labels[test])


def as_input(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).unsqueeze(1).float() / 255


def augment(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Shift the whole batch by up to two pixels each way; digits are centred, so the border is background."""
    dy, dx = torch.randint(-2, 3, (2,), generator=rng).tolist()
    return torch.roll(x, (dy, dx), (2, 3))


def train(x: torch.Tensor, y: torch.Tensor, epochs: int, seed: int) -> DigitNet:
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    model = DigitNet(batch_norm=True).train()
    steps = epochs * (len(x) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    start = time.perf_counter()
    for epoch in range(epochs):
        order, total = torch.randperm(len(x), generator=rng), 0.0
        for i in range(len(x) // 64):
            rows = order[64 * i : 64 * i + 64]
            loss = torch.nn.functional.cross_entropy(model(augment(x[rows], rng)), y[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / (len(x) // 64):.4f}, {time.perf_counter() - start:.0f} s")
    return model.eval()


def quantize(folded: torch.nn.Module, calibration: torch.Tensor, param_bits: int):
    """AIMET's simulation: per-channel weights of ``param_bits``, 8-bit activations, ranges from ``calibration``."""
    from aimet_torch.quantsim import QuantizationSimModel

    sim = QuantizationSimModel(folded, calibration[:1], default_output_bw=8, default_param_bw=param_bits)
    with torch.no_grad():
        sim.compute_encodings(lambda m: [m(batch) for batch in calibration.split(128)])
    return sim


def top1(logits, labels: np.ndarray) -> float:
    return float((np.asarray(logits).argmax(1) == labels).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DATA, help="folder to write (default: python/qgemm/data)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    import aimet_torch.onnx
    from aimet_torch.batch_norm_fold import fold_all_batch_norms
    from aimet_torch.model_preparer import prepare_model

    (train_images, train_labels), (test_images, test_labels) = split(args.seed)
    x, y, test = as_input(train_images), torch.from_numpy(train_labels).long(), as_input(test_images)
    model = train(x, y, args.epochs, args.seed)

    with contextlib.redirect_stdout(io.StringIO()):  # AIMET lists every folded pair
        prepared = prepare_model(model)
        fold_all_batch_norms(prepared, input_shapes=(1, 1, 28, 28), dummy_input=test[:1])
    weights = {k: v for k, v in prepared.state_dict().items() if k.endswith((".weight", ".bias"))}
    folded = DigitNet().eval()
    folded.load_state_dict(weights)
    args.out.mkdir(parents=True, exist_ok=True)
    np.savez(args.out / "digits_fp32.npz", **{k: v.numpy() for k, v in weights.items()})

    # One batch of all test images: the simulation's float sums may round differently at another batch size.
    recorded = {}
    with torch.no_grad():
        print(f"FP32: top-1 {top1(folded(test), test_labels):.4f} on {TEST} held-out images")
        for scheme, bits in SCHEMES.items():
            sim = quantize(prepared, x[:CALIBRATION], bits)
            logits = sim.model(test).as_subclass(torch.Tensor).numpy()
            recorded[scheme] = logits
            aimet_torch.onnx.export(
                sim,
                test[:1],
                str(args.out / f"digits_{scheme.lower()}.onnx"),
                opset_version=21,
                dynamo=False,
                prequantize_constants=True,
                export_int32_bias=False,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            )
            print(f"{scheme}: the simulation's top-1 {top1(logits, test_labels):.4f}")
    np.savez_compressed(
        args.out / "digits_test.npz", images=test_images, labels=test_labels, **{f"sim_{k.lower()}": v for k, v in recorded.items()}
    )

    files = sorted(p for p in args.out.iterdir() if p.suffix in (".npz", ".onnx"))
    for p in files:
        print(f"{p.stat().st_size:>8,} bytes  {p.name}")
    print(f"{sum(p.stat().st_size for p in files):>8,} bytes in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
