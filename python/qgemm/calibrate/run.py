"""``qgemm.quantize``: observe a float model over calibration data, choose the grids, return the integer program."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import numpy as np

from ..config import W8A8
from ..errors import ConfigError, DTypeError, QuantizationError, ShapeError
from ..exporting import as_inputs
from ..graph.from_torch import import_torch
from ..graph.guard import check_grids
from ..graph.ir import Graph, QParams
from ..graph.passes import run_all
from ..graph.passes.batch import free_batch
from ..graph.passes.batchnorm import fold_batchnorm
from ..graph.passes.cleanup import drop_dead, drop_identities
from ..graph.passes.constants import fold_constants
from ..graph.passes.einsum import form_products
from ..graph.passes.linear import form_linear
from ..graph.passes.norm import form_norms
from ..numerics import activation_encoding
from ..program import Program
from .floatrun import FloatRun
from .observers import OBSERVERS, Observer
from .place import Placement, place, quantize_constants


def quantize(model, calibration, config: W8A8 | None = None, on_unsupported: str = "float") -> Program:
    """Quantize a float torch model statically: one program, integer where a layer has an integer form. AIMET is not needed.

    model: an ``nn.Module`` in evaluation mode, on the CPU; it is not changed. BatchNorm is folded into the layer before it.
    calibration: batches of inputs that are typical of use; each a tensor (or array), or a tuple of them for a model of several
        inputs, any batch size. Iterated once, one batch in memory at a time; a progress bar shows on a terminal where tqdm is installed.
    config: :class:`qgemm.W8A8`, the default. on_unsupported: as for :func:`qgemm.load`.

    The grids follow AIMET's default configuration (``qgemm.calibrate.place``): with ``observer="minmax"`` they are the encodings that an
    AIMET simulation of the prepared model with folded BatchNorm computes from the same batches.

    Raises ConfigError for a config of another kind, no batches, a model in training mode; ShapeError and DTypeError for a batch that
    does not fit the first one; QuantizationError naming the tensor that holds NaN or infinity; UnsupportedOpError, DeviceError,
    MissingDependencyError.
    """
    config = _checked(config)
    if on_unsupported not in ("float", "raise"):
        raise ConfigError(f'on_unsupported must be "float" or "raise", got {on_unsupported!r}')
    first, batches, total = _open(calibration)
    graph = _float_graph(model, first)
    placement = place(graph)
    # First, because activations are observed as the rounded weights make them: AIMET's order too.
    quantize_constants(graph, config.weight_bits, config.per_channel)
    observers = _observe(graph, placement, batches, total, OBSERVERS[config.observer])
    _set_grids(graph, placement, observers)
    return Program(run_all(graph), on_unsupported)


def _checked(config) -> W8A8:
    if config is None:
        return W8A8()
    if not isinstance(config, W8A8):
        hint = "; an instance is meant: add parentheses" if isinstance(config, type) else ""
        hint = hint or "; dynamic configs are for qgemm.quantize_(model, config), which needs no calibration"
        raise ConfigError(f"qgemm.quantize takes qgemm.W8A8(...), not {config!r}{hint}")
    return config


def _open(calibration) -> tuple[tuple, Iterator[tuple], int | None]:
    """(the first batch, all of them, how many if known)."""
    if hasattr(calibration, "ndim") or not isinstance(calibration, Iterable):
        raise DTypeError(f"calibration is a {type(calibration).__name__}: pass an iterable of batches, such as [x] for a single one")
    iterator = iter(calibration)
    try:
        first = as_inputs(next(iterator))
    except StopIteration:
        raise ConfigError("calibration has no batches: pass at least one batch of typical inputs") from None

    def all_of_them():
        yield first
        for batch in iterator:
            yield as_inputs(batch)

    return first, all_of_them(), len(calibration) if hasattr(calibration, "__len__") else None


def _float_graph(model, first: tuple) -> Graph:
    """The imported model in the form in which quantizers are placed: constants folded, linear layers and norms formed, BatchNorm gone."""
    graph = import_torch(model, first, "qgemm.quantize")
    check_grids(graph)
    for p in (fold_constants, drop_identities, form_products, form_linear, form_norms, fold_batchnorm, drop_dead, free_batch):
        p(graph)
    return graph


def _observe(graph: Graph, placement: Placement, batches: Iterator[tuple], total: int | None, kind: type[Observer]) -> dict[str, Observer]:
    """Observers by the name of the quantizer. Tensors that turn out to carry no finite floats leave the placement."""
    run = FloatRun(graph)
    observers: dict[str, Observer] = {}
    layers = {o: n.module or n.name for n in graph.nodes for o in n.outputs}

    def show(name: str, x: np.ndarray) -> None:
        quantizer = placement.quantizer.get(name)
        if quantizer is None:
            return
        if x.dtype != np.float32:
            del placement.quantizer[name]
        elif x.size and name in placement.masks and (x.min() <= placement.masks[name] or x.max() == np.inf):  # false where x holds NaN
            del placement.quantizer[name]
        elif not np.isfinite(x).all():
            what = "NaN" if np.isnan(x).any() else "infinity"
            where = f"the result of layer '{layers[name]}'" if name in layers else "an input of the model"
            raise QuantizationError(
                f"calibration met {what} in tensor '{name}', {where}, in batch {count}: check the calibration data and the model's weights"
            )
        elif x.size:
            observers.setdefault(quantizer, kind()).update(x)

    for count, batch in enumerate(_progress(batches, total)):  # noqa: B007  (show names the batch)
        run.run(_arrays(graph, batch, count), show)
    return observers


def _arrays(graph: Graph, batch: tuple, count: int) -> list[np.ndarray]:
    if len(batch) != len(graph.inputs):
        raise ShapeError(
            f"calibration batch {count} holds {len(batch)} tensors, but the model takes {len(graph.inputs)} ({', '.join(graph.inputs)}); "
            "leave labels out"
        )
    arrays = []
    for name, x in zip(graph.inputs, batch, strict=True):
        t, a = graph.tensors[name], x.detach().numpy()
        if a.dtype.name != t.dtype:
            raise DTypeError(f"calibration batch {count}: input '{name}' is {a.dtype}, but the first batch had {t.dtype}")
        if t.shape is not None and (len(t.shape) != a.ndim or any(d not in (None, s) for d, s in zip(t.shape, a.shape, strict=True))):
            want = "[" + ", ".join("any" if d is None else str(d) for d in t.shape) + "]"
            raise ShapeError(f"calibration batch {count}: input '{name}' has shape {list(a.shape)}, but the model takes {want}")
        arrays.append(a)
    return arrays


def _progress(batches: Iterator[tuple], total: int | None) -> Iterable[tuple]:
    if not sys.stderr.isatty():
        return batches
    try:
        from tqdm import tqdm
    except ImportError:
        return batches
    return tqdm(batches, total=total, desc="calibrating", unit="batch")


def _set_grids(graph: Graph, placement: Placement, observers: dict[str, Observer]) -> None:
    grids: dict[str, QParams] = {}
    for name, observer in observers.items():
        scale, zero = activation_encoding(*observer.range())
        grids[name] = QParams(np.float32(scale), np.int32(zero))
    for name, quantizer in placement.quantizer.items():
        graph.tensors[name].qparams = grids.get(quantizer)
    makers = graph.producers()
    for source, result, factor in placement.rescaled:
        name = source
        while graph.tensors[name].qparams is None and name in makers:
            name = makers[name].inputs[0]
        qp = graph.tensors[name].qparams
        if qp is not None and np.isfinite(qp.scale * factor) and qp.scale * factor > 0:
            graph.tensors[result].qparams = QParams(qp.scale * factor, qp.zero_point)
