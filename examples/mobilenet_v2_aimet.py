#!/usr/bin/env python3
"""MobileNetV2 with its ImageNet weights: quantized with AIMET, executed by qgemm in integers, on 20 photographs.

    pip install ".[test]"
    python examples/mobilenet_v2_aimet.py                   # W8A8; about two minutes on two cores
    python examples/mobilenet_v2_aimet.py --param-bits 4    # W4A8: 4-bit weights, their scales found by AIMET's sequential MSE
    python examples/mobilenet_v2_aimet.py --quick           # fewer repeats of the timing

The road is the usual one: prepare_model, fold_all_batch_norms, QuantizationSimModel, compute_encodings. From there to integers there
are three: the live simulation, ONNX + encodings as AIMET exports them, and QDQ ONNX. All three are run, and must give the same bits.

The photographs also calibrate the quantizers, so their top-1 is no measure of accuracy on ImageNet; what it shows is that integers
answer what the simulation answers. Exit code 1 when a road disagrees with another, or a layer with
the simulation.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

import qgemm
from qgemm import bench

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import fetch_assets  # noqa: E402


def photographs() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Images float32 [20, 3, 224, 224] as the checkpoint wants them, labels int64 [20], file names."""
    from PIL import Image
    from torchvision.models import MobileNet_V2_Weights

    transform = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    photos = fetch_assets.imagenet_photos()
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path, _ in photos])
    return images, torch.tensor([label for _, label in photos]), [path.name for path, _ in photos]


def float_model() -> torch.nn.Module:
    """torchvision's MobileNetV2, with torchvision's checkpoint, its batch norms still there."""
    from torchvision.models import mobilenet_v2

    model = mobilenet_v2()
    model.load_state_dict(torch.load(fetch_assets.mobilenet_v2_weights(), weights_only=True))
    return model.eval()


def quantize(model: torch.nn.Module, images: torch.Tensor, param_bits: int):
    """(the FP32 model with its batch norms folded, AIMET's simulation of it calibrated on ``images``)."""
    from aimet_torch.batch_norm_fold import fold_all_batch_norms
    from aimet_torch.model_preparer import prepare_model
    from aimet_torch.quantsim import QuantizationSimModel

    dummy = images[:1]
    with contextlib.redirect_stdout(io.StringIO()):  # AIMET lists every pair it folds
        prepared = prepare_model(model)
        fold_all_batch_norms(prepared, input_shapes=tuple(dummy.shape), dummy_input=dummy)
    sim = QuantizationSimModel(prepared, dummy, default_output_bw=8, default_param_bw=param_bits)
    if param_bits == 4:  # scales from the largest weight alone leave 1 of 20 photographs right
        from aimet_torch.seq_mse import apply_seq_mse

        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            apply_seq_mse(sim, list(images[:8].split(2)), num_candidates=10)
    with torch.no_grad():
        sim.compute_encodings(lambda m: [m(batch) for batch in images.split(4)])
    return prepared, sim


def exported(sim, dummy: torch.Tensor, folder: Path) -> dict[str, qgemm.Program]:
    """What AIMET's two exports become: ONNX + encodings JSON, and QDQ ONNX."""
    import aimet_torch.onnx

    names = dict(input_names=["image"], output_names=["logits"], dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}})
    with torch.no_grad():
        sim.onnx.export(
            dummy, str(folder / "net.onnx"), encoding_version="2.0.0", opset_version=21, dynamo=False, export_int32_bias=False, **names
        )
        aimet_torch.onnx.export(
            sim,
            dummy,
            str(folder / "net_qdq.onnx"),
            opset_version=21,
            dynamo=False,
            prequantize_constants=True,
            export_int32_bias=False,
            **names,
        )
    return {
        "ONNX + encodings": qgemm.load(folder / "net.onnx", encodings=folder / "net.encodings"),
        "QDQ ONNX": qgemm.load(folder / "net_qdq.onnx"),
    }


def sqnr(want: torch.Tensor, got: torch.Tensor) -> float:
    """Signal to quantization noise in dB."""
    return float(10 * torch.log10(want.double().pow(2).sum() / (got.double() - want).pow(2).sum()))


def top(logits: torch.Tensor, labels: torch.Tensor, k: int) -> str:
    hits = (logits.topk(k).indices == labels[:, None]).any(1).sum()
    return f"{hits}/{len(labels)}"


def print_top5(logits: torch.Tensor, labels: torch.Tensor, files: list[str]) -> None:
    from torchvision.models import MobileNet_V2_Weights

    names = MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    for row, label, file in zip(logits.softmax(1), labels.tolist(), files, strict=True):
        p, classes = row.topk(5)
        marks = ", ".join(f"{'*' if c == label else ''}{names[c]} {q:.0%}" for c, q in zip(classes.tolist(), p.tolist(), strict=True))
        print(f"  {file:<22} {marks}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--param-bits", type=int, choices=(4, 8), default=8, help="bits of the weights (default 8)")
    parser.add_argument("--threads", type=int, default=1, help="threads of every contender (default 1)")
    parser.add_argument("--quick", action="store_true", help="fewer photographs in the layer comparison, fewer repeats of the timing")
    parser.add_argument("--layers", action="store_true", help="print the comparison of every layer")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    scheme = f"W{args.param_bits}A8"

    start = time.perf_counter()
    images, labels, files = photographs()
    fp32, sim = quantize(float_model(), images, args.param_bits)
    print(f"AIMET: {scheme} simulation of MobileNetV2, calibrated on {len(images)} photographs, {time.perf_counter() - start:.0f} s")

    roads = {"live simulation": qgemm.from_aimet(sim, images[:1])}
    with tempfile.TemporaryDirectory() as folder:
        roads |= exported(sim, images[:1], Path(folder))
    with torch.no_grad():
        float_logits = torch.cat([fp32(batch) for batch in images.split(4)])
        sim_logits = torch.cat([sim.model(batch).as_subclass(torch.Tensor) for batch in images.split(4)])
        sim_other = sim.model(images).as_subclass(torch.Tensor)
    answers = {road: program(images) for road, program in roads.items()}
    fast, logits = roads["live simulation"], answers["live simulation"]
    same_bits = all(torch.equal(a, logits) for a in answers.values())

    print(f"\nTop-5 of qgemm at {scheme} (* is the photograph's label)")
    print_top5(logits, labels, files)

    print(f"\n{'':<18}{'top-1':>7}{'top-5':>7}{'SQNR to FP32':>15}")
    for name, y in {"FP32": float_logits, f"{scheme} simulation": sim_logits, f"{scheme} qgemm": logits}.items():
        noise = "" if y is float_logits else f"{sqnr(float_logits, y):>12.2f} dB"
        print(f"{name:<18}{top(y, labels, 1):>7}{top(y, labels, 5):>7}{noise}")
    print(f"the three roads ({', '.join(roads)}) give the same bits: {'yes' if same_bits else 'NO'}")

    result = qgemm.validate(fast, sim, images[: 4 if args.quick else 20].split(4))
    print("\nLayer by layer, each given the simulation's own integers as input")
    if args.layers:
        print(result)
    print(
        f"{len(result.layers)} layers, {result.layer_outputs:,} outputs: {result.differing} differ ({result.differing_per_million:.1f} per "
        f"million), by {result.max_layer_lsb} LSB at most"
    )
    agrees = result.max_layer_lsb <= 1 and result.differing_per_million <= 10

    print("\nEnd to end. A step that falls to the other side in an early layer grows through the network; the simulation, whose float")
    print("sums come in another order at another batch size, does the same to itself")
    print(f"{'':<44}{'same class':>11}{'equal logits':>14}{'SQNR':>12}")
    for name, y in {"qgemm and the simulation": logits, f"the simulation in batches of 4 and of {len(images)}": sim_other}.items():
        same_class, equal = int((y.argmax(1) == sim_logits.argmax(1)).sum()), float((y == sim_logits).float().mean())
        noise = "infinite" if torch.equal(y, sim_logits) else f"{sqnr(sim_logits, y):.2f} dB"
        print(f"{name:<44}{f'{same_class}/{len(images)}':>11}{equal:>14.2%}{noise:>12}")

    print(f"\nLatency of one photograph; {bench.conditions(args.threads)}; the ratio is FP32's median over the row's\n")
    print(bench.table({"batch 1": latency(fp32, sim, fast, images[:1], 5.0 if args.quick else 20.0)}, "torch FP32"))
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    return 0 if same_bits and agrees else 1


def latency(fp32, sim, fast, x: torch.Tensor, seconds: float) -> list[bench.Timing]:
    """FP32 and BF16 with folded batch norms, the simulation, and the simulation with its weights quantized once, against qgemm.

    Leaves ``sim`` with its weights quantized for good.
    """
    import copy

    bf16, x16 = copy.deepcopy(fp32).to(torch.bfloat16), x.to(torch.bfloat16)
    every_call = copy.deepcopy(sim.model)
    sim.fold_param_quantizers()
    contenders = {
        "torch FP32": lambda: fp32(x),
        "torch BF16": lambda: bf16(x16),
        "simulation": lambda: every_call(x),
        "simulation, folded": lambda: sim.model(x),
        "qgemm": lambda: fast(x),
    }
    with torch.no_grad():
        return bench.interleave(contenders, seconds, warmup=2, label="latency")


if __name__ == "__main__":
    sys.exit(main())
