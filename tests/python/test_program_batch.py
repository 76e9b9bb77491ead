"""Stretches of a program that run an image at a time, where that is all they may do: the prices of graph.stretches are set so that it pays.

That every program gives the bytes of its Python steps is asserted by the fixture compiled_equals_stepwise of conftest.py, so the
concatenations of test_program_concat.py are run again here.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

import qgemm
from onnx_nets import Builder
from qgemm.graph import compile, stretches
from test_program_concat import *  # noqa: F403
from test_program_concat import SCALE, ZERO, conv, grid, kernels, start
from test_program_native import residual_net


@pytest.fixture
def found(monkeypatch):
    """The stretches of the latest program."""
    latest = []

    def watched(*args):
        latest[:] = stretches.stretches(*args)
        return latest

    monkeypatch.setattr(compile, "stretches", watched)
    return latest


@pytest.fixture(autouse=True)
def pays(monkeypatch, found):
    monkeypatch.setattr(stretches, "CACHED", 0)
    for price in ("SECONDS_PER_WEIGHT", "SECONDS_PER_CUT", "SECONDS_PER_CALL", "SECONDS_PER_STRETCH"):
        monkeypatch.setattr(stretches, price, 0.0)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("concat", [False, True])
def test_images_of_a_batch_one_by_one(rng, isa, found, concat, threads):
    """2, 3 and 5 images on 1 to 3 threads: parts for every thread, parts left over, and more threads than images."""
    p = qgemm.load(residual_net(rng, concat))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for n in (2, 3, 5):
            x = rng.standard_normal((n, 3, 16, 16)).astype(np.float32)
            want = p._stepwise([x])[0]
            assert np.array_equal(p(x), want) and np.array_equal(p(x), want)
            assert [(s.begin, s.images) for s in found] == [(0, n)] and found[0].end >= 6
    finally:
        torch.set_num_threads(before)


def test_the_arena_holds_one_image_of_what_stays_inside(rng, found):
    p = qgemm.load(residual_net(rng))
    x = rng.standard_normal((6, 3, 16, 16)).astype(np.float32)
    p(x)
    m = p.memory
    assert m["minimum_bytes"] <= m["arena_bytes"] <= 1.3 * m["minimum_bytes"] + 64 * 20
    assert m["minimum_bytes"] < 2 * 4 * 16 * 64 + 6 * 64 * 16 and 0 < m["thread_bytes"] <= m["arena_bytes"]
    macs = [n for _, kernel, n, *_ in next(iter(p._compiled.values())).core.ops() if kernel == "conv2d"]
    assert macs[0] == 6 * 8 * 8 * 16 * 27  # of all images
    times = next(p._timed_calls((x,)))
    assert len(times) == len(p.steps) and times[1] > 0


def test_what_mixes_images_or_cannot_be_told_ends_a_stretch(rng, found):
    """A softmax of rows, a concatenation of batches, and a product with a constant of the batch's shape."""
    b, x = start()
    y = conv(b, rng, x, 8, 8, (1, 1))
    y = grid(b, b.add("Concat", [y, y], "batches", axis=0))
    y = conv(b, rng, y, 8, 8, (1, 1))
    y = grid(b, b.add("Softmax", [y], "soft", axis=1))
    y = conv(b, rng, conv(b, rng, y, 8, 8, (1, 1)), 8, 8, (1, 1))
    b.q(b.nodes[-1].output[0], 0.05, 128, out="y")
    p = qgemm.load(b.model("y"))
    x = rng.standard_normal((3, 8, 6, 5)).astype(np.float32)
    assert np.array_equal(p(x), p._stepwise([x])[0])
    assert len(found) == 1 and found[0].images == 3  # behind the concatenation there are six images, of which a stretch knows nothing
    assert all(p.steps[k].op in ("Quantize", "Conv") for k in range(found[0].begin, found[0].end))


def test_a_constant_of_the_whole_batch(rng, found):
    """No form can be emitted for one image of it: the network runs as ever."""
    b, x = start()
    y = conv(b, rng, x, 8, 8, (1, 1))
    c = b.q(b.const("c", rng.standard_normal((3, 8, 6, 5)).astype(np.float32)), 0.02, 128)
    y = grid(b, b.add("Add", [conv(b, rng, y, 8, 8, (1, 1)), c], "sum"))
    b.q(b.nodes[-1].output[0], 0.05, 128, out="y")
    p = qgemm.load(b.model("y"))
    x = rng.standard_normal((3, 8, 6, 5)).astype(np.float32)
    assert np.array_equal(p(x), p._stepwise([x])[0])
    assert found and p.memory["thread_bytes"] == 0 and "numpy" not in kernels(p)


def test_a_class_token_for_every_image(rng, found):
    """A constant part of a concatenation holds the batch."""
    b, x = start()
    y = b.add("Reshape", [conv(b, rng, x, 8, 8, (1, 1)), b.const("shape", np.array([0, 8, -1]))], "r")
    y = b.add("Transpose", [y], "t", perm=[0, 2, 1])
    token = b.q(b.const("token", rng.standard_normal((3, 1, 8)).astype(np.float32)), SCALE, ZERO)
    y = grid(b, b.add("Concat", [token, y], "tokens", axis=1))
    b.q(b.add("Add", [y, y], "twice"), 0.1, 128, out="y")
    p = qgemm.load(b.model("y"))
    x = rng.standard_normal((3, 8, 6, 5)).astype(np.float32)
    assert np.array_equal(p(x), p._stepwise([x])[0])
    concat = next(k for k, s in enumerate(p.steps) if s.op == "Concat")
    assert found and not any(s.begin <= concat < s.end for s in found)


def test_behind_an_island(rng, found):
    """What Python leaves for native steps is the whole batch."""
    b = Builder()
    b.input("x", ["n", 8, 6, 5])
    y = grid(b, b.add("CumSum", ["x", b.const("axis", np.array(2, np.int64))], "summed"))
    y = conv(b, rng, conv(b, rng, y, 8, 8, (1, 1)), 8, 8, (1, 1))
    b.q(y, 0.05, 128, out="y")
    p = qgemm.load(b.model("y"))
    x = rng.standard_normal((4, 8, 6, 5)).astype(np.float32)
    assert np.array_equal(p(x), p._stepwise([x])[0])
    assert found and found[-1].end - found[-1].begin >= 2


@pytest.mark.parametrize("shape", [(4, 16, -1), (0, 16, -1), (-1, 16, 30)])
def test_a_view_that_is_none_because_its_input_lies_in_a_concatenation(rng, shape):
    b, x = start()
    one, two, three = (conv(b, rng, x, 8, 8, (1, 1)) for _ in range(3))
    inner = grid(b, b.add("Concat", [one, two], "inner", axis=1))
    outer = grid(b, b.add("Concat", [one, two, three], "outer", axis=1))  # of which the other one is a part, with gaps
    y = b.add("Reshape", [inner, b.const("shape", np.array(shape))], "flat")
    y = conv(b, rng, conv(b, rng, y, 16, 16, (1,)), 8, 16, (1,))
    b.q(y, 0.05, 128, out="y")
    b.q(conv(b, rng, outer, 8, 24, (1, 1)), 0.05, 128, out="z")
    p = qgemm.load(b.model("y", "z"))
    x = rng.standard_normal((4, 8, 6, 5)).astype(np.float32)
    for got, want in zip(p(x), p._stepwise([x]), strict=True):
        assert np.array_equal(got, want)


def test_two_views_of_one_tensor_with_images_of_two_sizes(rng):
    b = Builder()
    b.input("x", ["n", 1, 8, 6])
    x = grid(b, "x")
    c = grid(b, b.add("Concat", [conv(b, rng, x, 1, 1, (1, 1)), conv(b, rng, x, 1, 1, (1, 1))], "c", axis=0))
    cut = [b.const(n, np.array([v])) for n, v in (("from", 0), ("to", 4), ("axis", 0))]
    half = b.add("Slice", [c, *cut], "half")
    pairs = b.add("Reshape", [c, b.const("shape", np.array([4, 2, 8, 6]))], "pairs")
    half = b.q(b.add("Sigmoid", [half], "s0"), 1 / 255, 0)
    pairs = conv(b, rng, b.q(b.add("Sigmoid", [pairs], "s1"), 1 / 255, 0), 1, 2, (1, 1))
    b.q(b.add("Add", [half, pairs], "sum"), 0.05, 128, out="y")
    p = qgemm.load(b.model("y"))
    x = rng.standard_normal((4, 1, 8, 6)).astype(np.float32)
    assert np.array_equal(p(x), p._stepwise([x])[0])


def test_outputs_from_within(rng, found):
    b, x = start()
    y = conv(b, rng, x, 8, 8, (3, 3), pads=[1, 1, 1, 1])
    b.q(y, 0.05, 128, out="first")
    z = b.add("Relu", [conv(b, rng, y, 8, 8, (1, 1))], "z")
    b.q(z, 0.05, 0, out="second")
    p = qgemm.load(b.model("first", "second"))
    x = rng.standard_normal((4, 8, 6, 5)).astype(np.float32)
    for got, want in zip(p(x), p._stepwise([x]), strict=True):
        assert np.array_equal(got, want)
    assert found[0].images == 4


def test_threads_of_python_and_images_at_once(rng):
    p = qgemm.load(residual_net(rng))
    xs = [rng.standard_normal((4, 3, 16, 16)).astype(np.float32) for _ in range(4)]
    want = [p._stepwise([x])[0] for x in xs]
    p(xs[0])
    wrong = []

    def call(x, y):
        wrong.extend(1 for _ in range(20) if not np.array_equal(p(x), y))

    threads = [threading.Thread(target=call, args=pair) for pair in zip(xs, want, strict=True)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_the_prices_as_they_are(rng, found, monkeypatch):
    """Small tensors stay in the cache, and run together; large ones do not."""
    monkeypatch.undo()
    b = Builder()
    b.input("x", ["n", 16, "h", "w"])
    x = grid(b, "x")
    y = conv(b, rng, conv(b, rng, x, 16, 16, (1, 1)), 16, 16, (1, 1))
    b.q(y, 0.05, 128, out="y")
    p = qgemm.load(b.model("y"))
    for size, split in ((8, False), (128, True)):
        p(rng.standard_normal((8, 16, size, size)).astype(np.float32))
        compiled = list(p._compiled.values())[-1]
        assert (compiled.core.memory()[2] > 0) == split
