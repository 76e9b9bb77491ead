"""Which stretches of a program run an image of the batch at a time.

Between two layers that run a whole batch, the batch's tensors go through the cache that the cores share, or through memory. A stretch
of layers that takes one image from its first to its last layer, then the next, passes on one image's tensors, which stay in a core's
own cache; and threads that take images of their own need not wait for each other at every layer. What it costs: weights that do not
stay in that cache are read again for every image, and the last tile of every image's rows is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import native, native_float
from .slots import Layout, Places, Seen, Tensor
from .step import Step

# Measured on Zen 4 with 1 MiB of L2 (ResNet-18, MobileNetV2 and EfficientNet-B0, batch 8, layer by layer). A stretch that pays elsewhere
# and not there, or the other way round, costs a few percent; no result depends on it.
CACHED = 1 << 20  # bytes that stay in a core's cache from the layer that writes them to the one that reads them
SECONDS_PER_BYTE = 1 / 40e9  # saved for what goes beyond that
CACHED_WEIGHTS = 1 << 18  # bytes
SECONDS_PER_WEIGHT = 1 / 50e9  # for every further image, where they are more
SECONDS_PER_CUT = 7 / 230e9  # for every byte of weights and image: the rows that a last tile lacks
SECONDS_PER_CALL = 0.8e-6  # for every further image
SECONDS_PER_STRETCH = 50e-6

# Forms that treat all images alike and each by itself, where every tensor has the batch first.
_ALIKE = (
    native.Quantize, native.Dequantize, native.Conv, native.ConvTranspose, native.Conv3d, native.ResizeLinear, native.MaxPool,
    native.AvgPool, native.PermuteChannels, native.Binary, native.Lut, native.Concat, native_float.Conv,
)  # fmt: skip


@dataclass(frozen=True)
class Stretch:
    """Steps [begin, end), run ``images`` times. inner: tensors that nobody outside it reads, of which one image is enough."""

    begin: int
    end: int
    images: int
    inner: frozenset[Tensor]


def stretches(steps: Sequence[Step], seen: Sequence[Seen], places: Places) -> list[Stretch]:
    """The disjoint stretches, in order, that save the most time together."""
    sizes = {layout.shape[0] for (k, _), layout in places.layouts.items() if k < 0 and layout.shape}
    if len(sizes) != 1 or (images := sizes.pop()) < 2:
        return []
    given = _inputs(steps, places)
    alike = [_alike(s, seen[k], given[k], places, images) for k, s in enumerate(steps)]
    # best[e]: (seconds saved by stretches that end at or before step e, where the last one begins and ends)
    best: list[tuple[float, tuple[int, int] | None]] = [(0.0, None)]
    gains: dict[int, float] = {}  # of the stretch from each possible first step up to here
    for k, step in enumerate(steps):
        found = best[k]
        if not alike[k]:
            gains.clear()
        else:
            gains[k] = -SECONDS_PER_STRETCH
            runs = seen[k].values is None and not seen[k].views
            cost = _cost(step, images) if runs else 0.0
            read = [(t[0], places.layouts[t].nbytes) for t in given[k]]
            for first in gains:
                passed = 2 * sum(n for maker, n in read if maker >= first)  # written, and read again
                gains[first] += (max(passed - CACHED, 0) * SECONDS_PER_BYTE if runs else 0.0) - cost
                total = best[first][0] + gains[first]
                if total > found[0]:
                    found = total, (first, k + 1)
        best.append(found)
    out = []
    while (last := best[-1][1]) is not None:
        out.append(Stretch(*last, images, _inner(*last, steps, seen, places, given)))
        del best[last[0] + 1 :]
    return out[::-1]


def by_image(step: Step) -> bool:
    """Whether the step's form treats all images alike."""
    return isinstance(_form(step), _ALIKE)


def _form(step: Step):
    return step.native.form if isinstance(step.native, native.Rounded) else step.native


def _inputs(steps: Sequence[Step], places: Places) -> list[list[Tensor]]:
    given: list[list[Tensor]] = [[] for _ in steps]
    for tensor, readers in places.readers.items():
        for k in readers:
            given[k].append(tensor)
    return given


def _alike(step: Step, seen: Seen, given: Sequence[Tensor], places: Places, images: int) -> bool:
    """Whether the step can run an image at a time."""
    if seen.values is not None:
        return True
    inputs = [places.layouts[t] for t in given]
    results = list(seen.results.values())
    if any(t in places.known for t in given) or not all(_is_batch(a, images) for a in (*inputs, *results)):
        return False
    if seen.views:
        return all(not at and a.strides[0] == y.strides[0] for y in results for a in inputs for _, at in seen.views[step.outputs[0]])
    form = _form(step)
    if isinstance(form, native.Concat) and (form.axis % len(results[0].shape) == 0 or not all(isinstance(i, str) for i in form.inputs)):
        return False  # a constant part (a class token) is of all images
    if isinstance(form, native.ResizeLinear) and form.axes.sizes is not None:
        return False  # sizes name the batch
    return by_image(step) and all(len(a.shape) == len(results[0].shape) for a in inputs)


def _is_batch(a: Layout, images: int) -> bool:
    """Whether the array is one image behind the other."""
    return len(a.shape) > 1 and a.shape[0] == images and a.strides[0] * images == a.nbytes


def _cost(step: Step, images: int) -> float:
    """Seconds that a layer takes longer when its images come one by one."""
    again = (images - 1) * SECONDS_PER_WEIGHT if step.weight_bytes > CACHED_WEIGHTS else 0.0
    return (images - 1) * SECONDS_PER_CALL + step.weight_bytes * (again + images * SECONDS_PER_CUT)


def _inner(begin: int, end: int, steps: Sequence[Step], seen: Sequence[Seen], places: Places, given) -> frozenset[Tensor]:
    made = {(k, o) for k in range(begin, end) for o in seen[k].results if seen[k].values is None}
    inner = {t for t in made if t not in places.final and all(begin <= k < end for k in places.readers.get(t, []))}
    while True:
        # A view, and a part of a concatenation, lie in another tensor's memory: both hold one image, or both the batch.
        together = [(t, origin) for t, (origin, _) in places.origin.items()] + [(t, slot.whole) for t, slot in places.slots.items()]
        outside = {s for t, whole in together for s in (t, whole) if s in inner and not (t in inner and whole in inner)}
        if not outside:
            return frozenset(inner)
        inner -= outside
