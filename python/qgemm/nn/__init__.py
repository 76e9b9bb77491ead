"""Drop-in quantized layers: :class:`Linear`, :class:`Conv1d`, :class:`Conv2d`, :class:`ConvTranspose1d` and
:class:`ConvTranspose2d`, each made by ``.from_float(module, config)``, and :class:`SharedInputLinear` for several Linear layers that
read one input.

A layer's ``state_dict`` holds canonical integers and scales; the layout that the kernels read is derived from it when a layer is made,
loaded, copied or unpickled, for the CPU at hand.
"""

from __future__ import annotations

from ..errors import require

require("torch", "qgemm.nn")

from .conv import Conv1d, Conv2d  # noqa: E402
from .conv_transpose import ConvTranspose1d, ConvTranspose2d  # noqa: E402
from .linear import Linear, SharedInputLinear  # noqa: E402

__all__ = ["Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d", "Linear", "SharedInputLinear"]
