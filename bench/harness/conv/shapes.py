"""Shapes of convolutions. An entry of a list, where what has its default may be left out:

    {"size": [56, 56], "in": 64, "out": 64, "kernel": [3, 3], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1,
     "transposed": false, "output_padding": [0, 0], "what": text}

``size`` is the input's; one number in each list makes a 1-D convolution. Each entry stands for one shape a batch size of BATCHES.
A label reads: batch, size, channels in->out (one number: depthwise), kernel, then stride s, padding p unless it is half the kernel,
dilation d, groups g, transposed T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .. import lists

FOLDER = lists.FOLDER / "conv"
BATCHES = (1, 8)
FAMILIES = ("first layer", "1x1", "3x3", "other", "depthwise", "grouped", "transposed", "one position")


@dataclass(frozen=True)
class Conv:
    batch: int
    size: tuple[int, ...]
    c_in: int
    c_out: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    uses: tuple[str, ...] = ()

    @property
    def out_size(self) -> tuple[int, ...]:
        span = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        each = zip(self.size, self.stride, self.padding, span, strict=True)
        if self.transposed:
            return tuple((n - 1) * s - 2 * p + k + o for (n, s, p, k), o in zip(each, self.output_padding, strict=True))
        return tuple((n + 2 * p - k) // s + 1 for n, s, p, k in each)

    @property
    def ops(self) -> int:
        """A transposed convolution multiplies once for each input position, another one once for each output position."""
        positions = math.prod(self.size if self.transposed else self.out_size)
        return 2 * self.batch * positions * math.prod(self.kernel) * self.c_in * self.c_out // self.groups

    @property
    def depthwise(self) -> bool:
        return self.groups > 1 and self.groups == self.c_in == self.c_out

    @property
    def label(self) -> str:
        def joined(values: tuple[int, ...]) -> str:
            return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))

        channels = str(self.c_in) if self.depthwise else f"{self.c_in}->{self.c_out}"
        kernel = "x".join(map(str, self.kernel)) if len(self.kernel) > 1 else f"k{self.kernel[0]}"
        words = [f"b{self.batch}", "x".join(map(str, self.size)), channels, kernel]
        if max(self.stride) > 1:
            words.append(f"s{joined(self.stride)}")
        if self.padding != tuple(d * (k - 1) // 2 for d, k in zip(self.dilation, self.kernel, strict=True)):
            words.append(f"p{joined(self.padding)}")
        if max(self.dilation) > 1:
            words.append(f"d{joined(self.dilation)}")
        if self.groups > 1:
            words.append("dw" if self.depthwise else f"g{self.groups}")
        if self.transposed:
            words.append("T" + (f" op{joined(self.output_padding)}" if any(self.output_padding) else ""))
        return " ".join(words)

    @property
    def family(self) -> str:
        if self.transposed:
            return "transposed"
        if self.depthwise:
            return "depthwise"
        if self.groups > 1:
            return "grouped"
        if math.prod(self.out_size) == 1:
            return "one position"
        if self.c_in <= 4:
            return "first layer"
        if math.prod(self.kernel) == 1:
            return "1x1"
        return "3x3" if self.kernel == (3, 3) else "other"

    @property
    def well_shaped(self) -> bool:
        """A 3x3 that fills the tile in every direction."""
        plain = self.family == "3x3" and max(self.dilation) == 1 and max(self.stride) == 1
        return plain and min(self.c_in, self.c_out) >= 64 and self.batch * math.prod(self.out_size) >= 196

    def fields(self) -> dict[str, Any]:
        kept = ("batch", "size", "c_in", "c_out", "kernel", "stride", "padding", "dilation", "groups", "transposed", "output_padding")
        return {"family": self.family, "well_shaped": self.well_shaped} | {k: getattr(self, k) for k in kept}

    def problem(self):
        from .problem import Problem

        return Problem(self)


def _read(e: dict[str, Any], uses: tuple[str, ...]) -> list[Conv]:
    n, _ = len(e["size"]), e["kernel"]  # which have no default

    def several(key: str, default: int) -> tuple[int, ...]:
        values = tuple(e.get(key, [default] * n))
        if len(values) != n or not all(isinstance(v, int) and v >= default for v in values):
            raise ValueError(f"{key} {list(values)}: {n} whole numbers of at least {default} go with the size {e['size']}")
        return values

    if n not in (1, 2) or not all(isinstance(v, int) and v >= 1 for v in (*e["size"], e["in"], e["out"], e.get("groups", 1))):
        raise ValueError(f"{e}: size has one or two whole numbers; in, out and groups are whole numbers of at least 1")
    geometry = {"kernel": several("kernel", 1), "stride": several("stride", 1), "padding": several("padding", 0)}
    geometry |= {"dilation": several("dilation", 1), "output_padding": several("output_padding", 0)}
    groups = e.get("groups", 1)
    shapes = [
        Conv(b, tuple(e["size"]), e["in"], e["out"], **geometry, groups=groups, transposed=e.get("transposed", False), uses=uses)
        for b in BATCHES
    ]
    if e["in"] % groups or e["out"] % groups or min(shapes[0].out_size) < 1:
        raise ValueError(f"{shapes[0].label}: the channels must be multiples of the groups, and the kernel fit the padded input")
    return shapes


LISTS = lists.Lists(FOLDER, "convs", _read, "bench/harness/conv/shapes.py")
