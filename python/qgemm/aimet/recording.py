"""What the tensors of a running AIMET simulation are: hooks on its quantizers and modules.

A *sighting* is a place where the simulation shows a tensor: the output of an activation quantizer, the input or output of a
module, the model's own inputs and outputs. A sighting is known by (module path, side, position, call number), so the same key means
the same tensor in the next batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..errors import require


class Sighting(NamedTuple):
    """Where the simulation shows a tensor.

    side: "input" or "output" of a module, "quantizer" for what an activation quantizer returns, "unquantized" for what it is given
    (shown only when wanted).
    """

    module: str
    side: str
    position: int
    call: int

    @property
    def layer(self) -> str:
        """The torch module it is about: 'conv1' for its quantizer 'conv1.output_quantizers.0', "" for the whole model."""
        for part in (".input_quantizers.", ".output_quantizers."):
            if part in self.module:
                return self.module.partition(part)[0]
        return self.module


class Recorder:
    """While entered, shows the tensors of a simulation's model as it runs.

    ``see(sighting, array)`` is called in order of execution with float32 arrays of its own; only floating-point tensors are shown.
    ``wanted`` limits the sightings to a set. Call numbers restart with every ``with``.
    """

    def __init__(self, model, see: Callable[[Sighting, np.ndarray], None], wanted: set[Sighting] | None = None):
        self.torch = require("torch", "qgemm.validate")
        require("aimet_torch", "qgemm.validate")
        self.model, self.see, self.wanted = model, see, wanted
        self.calls: dict[tuple[str, str], int] = {}
        self.handles: list = []

    def _show(self, module: str, side: str, values):
        call = self.calls.get((module, side), 0)
        self.calls[module, side] = call + 1
        for i, v in enumerate(_flat(values, self.torch)):
            key = Sighting(module, side, i, call)
            if v.is_floating_point() and (self.wanted is None or key in self.wanted):
                # A copy: an in-place module may change the tensor after it has been shown.
                self.see(key, v.as_subclass(self.torch.Tensor).detach().to(self.torch.float32, copy=True).numpy())

    def __enter__(self):
        from aimet_torch.quantization.base import QuantizerBase

        self.calls.clear()
        for path, m in self.model.named_modules():
            if isinstance(m, QuantizerBase):
                if "param_quantizers" not in path:
                    if self.wanted is not None:
                        self.handles.append(m.register_forward_pre_hook(lambda _m, args, p=path: self._show(p, "unquantized", args)))
                    self.handles.append(m.register_forward_hook(lambda _m, _a, out, p=path: self._show(p, "quantizer", out)))
            else:
                self.handles.append(
                    m.register_forward_pre_hook(lambda _m, args, kwargs, p=path: self._show(p, "input", (args, kwargs)), with_kwargs=True)
                )
                self.handles.append(m.register_forward_hook(lambda _m, _a, out, p=path: self._show(p, "output", out)))
        return self

    def __exit__(self, *_):
        for h in self.handles:
            h.remove()
        self.handles.clear()


def _flat(values, torch) -> Iterator:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        for v in values.values():
            yield from _flat(v, torch)
    elif isinstance(values, (tuple, list)):
        for v in values:
            yield from _flat(v, torch)
