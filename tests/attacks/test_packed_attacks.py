"""Hostile packed weights: whatever the bytes, the engine raises PackedWeightError or computes; it never reads past the buffer.

Every attack runs on a copy in memory of its exact size, so that a read past the end is a read of somebody else's memory.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from qgemm import _core, errors

HEADER = 256
CHECKED = 104  # bytes of the header in front of its checksum, which follows in 4 more


def linear_weight(bits=8, group_size=0):
    rng = np.random.default_rng(1)
    w = rng.integers(-8, 8, (20, 24)).astype(np.int8)
    scale = np.full((20, -(-24 // group_size)) if group_size else 20, 0.5, np.float32)
    return _core.pack_linear(w, scale, bits=bits, group_size=group_size, x_scale=0.5, x_zero_point=9)


def conv_weight(groups=1):
    w = np.ones((8, 8 // groups, 3, 3), np.int8)
    return _core.pack_conv2d(w, np.ones(1, np.float32), groups=groups, x_scale=0.5, x_zero_point=9)


WEIGHTS = {
    "linear": linear_weight(),
    "linear s4": linear_weight(4),
    "linear grouped": linear_weight(4, 8),
    "conv": conv_weight(),
    "conv groups": conv_weight(2),
    "depthwise": conv_weight(8),
}


def use(packed):
    """Everything that reads a packed weight."""
    info = _core.packed_info(packed)
    _core.unpack_weight(packed)
    if info["kind"] == "linear":
        _core.linear(np.zeros((3, info["k"]), np.uint8), packed, np.zeros((3, info["n"]), np.float32))
    else:
        kh, kw = info["kernel_size"]
        x = np.zeros((1, kh, kw, info["cin_per_group"] * info["groups"]), np.uint8)
        _core.conv2d(x, packed, np.zeros((1, 1, 1, info["n"]), np.float32), (1, 1), (0, 0, 0, 0), (1, 1))


def aligned(data) -> np.ndarray:
    return np.frombuffer(bytearray(data), np.uint8).copy()


def refuses(data):
    with pytest.raises(errors.PackedWeightError) as caught:
        use(aligned(data))
    assert "pack" in str(caught.value), str(caught.value)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_whole_weights_work(kind):
    use(WEIGHTS[kind])
    use(aligned(WEIGHTS[kind].tobytes()))  # a copy elsewhere is as good: nothing in it is an address


@pytest.mark.parametrize("kind", WEIGHTS)
def test_every_cut(kind):
    data = WEIGHTS[kind].tobytes()
    for length in [*range(min(512, len(data))), len(data) // 2, len(data) - 64, len(data) - 1]:
        refuses(data[:length])


@pytest.mark.parametrize("kind", WEIGHTS)
def test_extra_bytes(kind):
    data = WEIGHTS[kind].tobytes()
    for extra in (1, 64, len(data)):
        refuses(data + bytes(extra))


@pytest.mark.parametrize("kind", WEIGHTS)
def test_every_bit_of_the_header(kind):
    data = bytearray(WEIGHTS[kind].tobytes())
    for byte in range(CHECKED + 4):
        for bit in range(8):
            data[byte] ^= 1 << bit
            refuses(data)
            data[byte] ^= 1 << bit


def forge(data: bytes, offset: int, value: int, size: int) -> bytes:
    """A header with one field changed and its checksum made to match: what an attacker would write."""
    data = bytearray(data)
    struct.pack_into({4: "<i", 8: "<q"}[size], data, offset, value)
    check = 2166136261
    for byte in data[:CHECKED]:
        check = ((check ^ byte) * 16777619) & 0xFFFFFFFF
    struct.pack_into("<I", data, CHECKED, check)
    return bytes(data)


FIELDS = {"kind": (8, 4), "bits": (12, 4), "n": (16, 8), "k": (24, 8), "groups": (32, 8), "cin": (40, 8), "kh": (48, 8), "kw": (56, 8)}
FIELDS |= {
    "group_size": (64, 8),
    "total_bytes": (72, 8),
    "x_zero_point": (84, 4),
    "has_zero_point": (88, 4),
    "dynamic": (92, 4),
    "bound": (96, 4),
}
VALUES = [-1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 63, 65, 1 << 16, 1 << 30, (1 << 31) - 1]
WIDE = [1 << 31, 1 << 40, 1 << 62, (1 << 63) - 1, -(1 << 63)]


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_forged_checksum_is_accepted(kind):
    """Or the forgeries below would all be refused for their checksum alone."""
    n = struct.unpack_from("<q", WEIGHTS[kind].tobytes(), 16)[0]
    assert forge(WEIGHTS[kind].tobytes(), 16, n, 8) == WEIGHTS[kind].tobytes()


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_forged_headers(kind, field):
    """With a checksum that matches, a lie about the dimensions is caught by the buffer's length, or is a weight of another shape that
    fits the same bytes: then it computes nonsense, within the buffer."""
    offset, size = FIELDS[field]
    for value in VALUES + (WIDE if size == 8 else []):
        data = forge(WEIGHTS[kind].tobytes(), offset, value, size)
        try:
            use(aligned(data))
        except errors.QgemmError:
            pass


@pytest.mark.parametrize("kind", WEIGHTS)
def test_flips_in_the_body_never_crash(kind):
    """Scales, sums and panels carry no checksum: a flip there is a wrong number, not a wrong read."""
    rng = np.random.default_rng(2)
    for _ in range(200):
        data = aligned(WEIGHTS[kind].tobytes())
        at = rng.integers(HEADER, data.size, 8)
        data[at] ^= rng.integers(1, 256, 8).astype(np.uint8)
        use(data)


def test_noise():
    rng = np.random.default_rng(3)
    for length in (0, 1, 8, 255, 256, 257, 4096):
        for _ in range(20):
            data = rng.integers(0, 256, length).astype(np.uint8).tobytes()
            refuses(data)
            if length > 8:
                refuses(b"QGPACK05" + data[8:])


def test_a_weight_of_the_wrong_kind():
    x, out = np.zeros((1, 3, 3, 24), np.uint8), np.zeros((1, 1, 1, 20), np.float32)
    with pytest.raises(errors.PackedWeightError, match="pack_conv2d"):
        _core.conv2d(x, WEIGHTS["linear"], out, (1, 1), (0, 0, 0, 0), (1, 1))
    for kind in ("conv", "depthwise"):
        with pytest.raises(errors.PackedWeightError, match="pack_linear"):
            _core.linear(np.zeros((2, 72), np.uint8), WEIGHTS[kind], np.zeros((2, 8), np.float32))


def test_an_unaligned_buffer():
    data = WEIGHTS["linear"].tobytes()
    shifted = np.frombuffer(bytearray(b"\0" + data), np.uint8)[1:]
    try:
        use(shifted)
    except errors.PackedWeightError as e:
        assert "align" in str(e)
