"""Exporting a torch model, quietly and without a trace: what every live road shares.

Everything here restores what it touches: training flags, warning filters, logging levels.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import Any

import numpy as np

from .errors import DeviceError, DTypeError, require


@contextlib.contextmanager
def quiet():
    """Silence what exporters say through warnings, logging and print, and put everything back.

    Errors still arrive as exceptions. Module-level loggers that AIMET configures keep their levels: ``logging.disable`` is global
    and is reset to its former value.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def evaluating(model):
    """``model.eval()`` for a while; each module gets its own flag back."""
    flags = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for m, training in flags.items():
            m.training = training


@contextlib.contextmanager
def as_modules():
    """Keep torch's fused transformer kernel out of the way.

    In eval mode without gradients nn.TransformerEncoderLayer hands its raw parameters to that kernel: the modules inside it, and so
    AIMET's quantizers, are passed over, and the exporter cannot write it.
    """
    torch = require("torch", "exporting a torch model")
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def as_inputs(example_inputs: Any) -> tuple:
    """Example inputs as the tuple of positional arguments: a tensor, an array, or a tuple or list of them."""
    torch = require("torch", "exporting a torch model")
    items = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    out = []
    for i, x in enumerate(items):
        if isinstance(x, np.ndarray):
            x = torch.from_numpy(np.ascontiguousarray(x))
        if not isinstance(x, torch.Tensor):
            raise DTypeError(
                f"input {i} must be a torch tensor or a numpy array, got {type(x).__name__}; pass a tensor or a tuple of tensors"
            )
        if x.device.type != "cpu":
            raise DeviceError(f"input {i} is on {x.device}; pass a CPU tensor (x.cpu())")
        out.append(x)
    return tuple(out)


def check_on_cpu(model, what: str):
    for name, p in model.named_parameters():
        if p.device.type != "cpu":
            raise DeviceError(f"{what}: parameter '{name}' is on {p.device}; move the model first: model.cpu()")


def first_line(e: BaseException) -> str:
    text = str(e).strip()
    return text.splitlines()[0][:300] if text else type(e).__name__
