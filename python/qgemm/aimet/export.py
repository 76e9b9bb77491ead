"""Names and dynamic axes for AIMET's exporter, beside what every live road shares (``qgemm.exporting``)."""

from __future__ import annotations

import inspect
from typing import Any

from ..errors import require
from ..exporting import as_inputs, as_modules, check_on_cpu, evaluating, first_line, quiet

__all__ = ["as_inputs", "as_modules", "check_on_cpu", "evaluating", "first_line", "names_and_axes", "quiet"]


def _tensors(value, torch) -> list:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in _tensors(v, torch)]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in _tensors(v, torch)]
    return []


def names_and_axes(model, inputs: tuple, outputs: Any) -> dict[str, Any]:
    """input_names, output_names and dynamic_axes for the TorchScript exporter.

    Inputs are called as ``forward`` calls them. Axis 0 is a batch axis on inputs that agree on its size and on outputs that have it.
    """
    torch = require("torch", "qgemm.from_aimet")
    forward = [
        p.name for p in inspect.signature(model.forward).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    names = [forward[i] if i < len(forward) else f"input_{i}" for i in range(len(inputs))]
    results = _tensors(outputs, torch)
    # A name of the graph's own, so that an input called "output" cannot clash.
    out_names = ["output"] if len(results) == 1 else [f"output_{i}" for i in range(len(results))]
    out_names = [f"{n}_" if n in names else n for n in out_names]
    batch = next((x.shape[0] for x in inputs if x.ndim), None)
    axes = {n: {0: "batch"} for n, x in zip(names, inputs, strict=True) if x.ndim and x.shape[0] == batch}
    axes |= {n: {0: "batch"} for n, y in zip(out_names, results, strict=True) if y.ndim and y.shape[0] == batch}
    return dict(input_names=names, output_names=out_names, dynamic_axes=axes)
