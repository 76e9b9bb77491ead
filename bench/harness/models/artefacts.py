"""What contenders load: ONNX files, quantized ones, compiled packages. Built once and kept in a folder (--artefacts).

Calibration is by minimum and maximum over the same two batches of noise everywhere.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from networks import audio, zoo

from .problem import Problem

FOLDER = Path(__file__).resolve().parents[3] / "build" / "models"
_CALIBRATION_SEEDS = (11, 12)


def folder() -> Path:
    """Of this run: the environment carries it to the processes that measure."""
    return Path(os.environ.get("QGEMM_BENCH_ARTEFACTS", FOLDER))


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Exporters and AIMET log every node."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def calibration(p: Problem) -> list[torch.Tensor]:
    with torch.inference_mode(False):
        return [zoo.inputs(p.shape.name, p.shape.batch, seed) for seed in _CALIBRATION_SEEDS]


def kept(p: Problem, name: str, make: Callable[[Path], None]) -> Path:
    """The file ``name`` of this network and batch; ``make`` writes it when it is not there."""
    path = folder() / f"{p.shape.name}_b{p.shape.batch}" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Torn files of an interrupted run must not look like finished ones, and two runs may build the same; the suffix stays, since
        # tools go by it.
        part = path.with_name(f"part_{os.getpid()}_{path.name}")
        try:
            with silent():
                make(part)
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)
    return path


def onnx_float(p: Problem) -> Path:
    def make(path: Path) -> None:
        with torch.inference_mode(False), torch.no_grad():
            program = torch.onnx.export(p.model, (p.x,), dynamo=True, verbose=False, external_data=False)
        program.save(path, external_data=False)

    return kept(p, "float.onnx", make)


def _reader(p: Problem) -> Any:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader

    name = onnx.load(str(onnx_float(p)), load_external_data=False).graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rewind()

        def rewind(self) -> None:
            self.rest = iter([{name: x.numpy()} for x in calibration(p)])

        def get_next(self) -> Any:
            return next(self.rest, None)

    return Reader()


def _prepared(p: Problem) -> Path:
    """The float network as ONNX Runtime's documentation asks before quantization: shapes inferred, constants and BatchNorm folded."""

    def make(path: Path) -> None:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        quant_pre_process(str(onnx_float(p)), str(path), skip_symbolic_shape=True)

    return kept(p, "prepared.onnx", make)


def onnx_qdq(p: Problem, only_products: bool = False) -> Path:
    """Quantized by ONNX Runtime: uint8 activations, int8 weights per channel, QDQ. The same file goes to it, to OpenVINO and to qgemm.

    only_products: quantize convolutions and matrix products, and leave the rest in float, as is advised for transformers.
    """

    def make(path: Path) -> None:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        quantize_static(
            str(_prepared(p)),
            str(path),
            _reader(p),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"] if only_products else None,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )

    return kept(p, "qdq_products.onnx" if only_products else "qdq.onnx", make)


def onnx_dynamic(p: Problem) -> Path:
    def make(path: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(str(_prepared(p)), str(path), per_channel=True, weight_type=QuantType.QInt8)

    return kept(p, "dynamic.onnx", make)


def program_quantized(p: Problem) -> Path:
    """qgemm.quantize on the torch model."""

    def make(path: Path) -> None:
        import qgemm

        qgemm.save(qgemm.quantize(p.model, calibration(p)), path)

    return kept(p, "quantized.qgemm", make)


def simulation(p: Problem) -> Any:
    """An AIMET simulation with computed encodings. Built anew in each process: it has no file that loads faster."""
    from aimet_torch.batch_norm_fold import fold_all_batch_norms
    from aimet_torch.model_preparer import prepare_model
    from aimet_torch.quantsim import QuantizationSimModel

    with silent():
        model = zoo.build(p.shape.name)  # quantizing a prepared model changes the one it came from
        if p.shape.name not in zoo.TRANSFORMERS:
            model = prepare_model(model)
            fold_all_batch_norms(model, tuple(p.x.shape), dummy_input=p.x)
        sim = QuantizationSimModel(model, p.x, default_output_bw=8, default_param_bw=8)
        batches = calibration(p)
        with torch.no_grad():
            sim.compute_encodings(lambda m: [m(x) for x in batches])
    return sim


def program_aimet(p: Problem) -> Path:
    """qgemm.from_aimet on the simulation."""

    def make(path: Path) -> None:
        import qgemm

        with torch.inference_mode(False):
            qgemm.save(qgemm.from_aimet(simulation(p), p.x), path)

    return kept(p, "aimet.qgemm", make)


def _package(p: Problem, path: Path, program: Any) -> None:
    import torch._inductor

    with torch.inference_mode(False), torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs={"freezing": True})


def compiled_float(p: Problem) -> Path:
    """torch.compile's backend ahead of time, weights frozen; code for one number of threads."""

    def make(path: Path) -> None:
        with torch.inference_mode(False), torch.no_grad():
            program = torch.export.export(p.model, (p.x,))
        _package(p, path, program)

    return kept(p, f"float_{torch.get_num_threads()}.pt2", make)


def compiled_pt2e(p: Problem) -> Path:
    """PT2E: X86InductorQuantizer's default, per channel and static, through Inductor."""

    def make(path: Path) -> None:
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        with torch.inference_mode(False), torch.no_grad():
            # Inductor's quantized convolutions of one dimension do not compile ("Attempting to broadcast a dimension").
            model = audio.AsImages(p.model) if isinstance(p.model, audio.AudioNet) else copy.deepcopy(p.model)
            for module in model.modules():
                if getattr(module, "inplace", False):  # the quantizer finds no patterns that write into their input
                    module.inplace = False
            exported = torch.export.export(model, (p.x,), strict=True).module()  # else the quantizer does not find residual sums
            quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
            prepared = prepare_pt2e(exported, quantizer)
            for x in calibration(p):
                prepared(x)
            program = torch.export.export(convert_pt2e(prepared), (p.x,))
        _package(p, path, program)

    return kept(p, f"pt2e_{torch.get_num_threads()}.pt2", make)
