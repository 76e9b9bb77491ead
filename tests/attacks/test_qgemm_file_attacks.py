"""``.qgemm`` files that are cut, wrong or hostile: a result or a typed error that names the file; never a crash, never much memory."""

from __future__ import annotations

import copy
import json
import random
import resource
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy

import qgemm
from qgemm import files
from qgemm.errors import ModelFormatError, QgemmError, QuantizationError, UnsupportedOpError
from qgemm.graph import document
from qgemm.graph.ir import Graph, Node, QParams, Tensor

X = np.linspace(-2, 2, 2 * 3 * 6 * 6, dtype=np.float32).reshape(2, 3, 6, 6)


def program() -> qgemm.Program:
    """A convolution, a table, a 4-bit linear layer and a float addition: one of each kind of step."""
    rng = np.random.default_rng(0)
    grid = QParams(np.float32(0.05), 128)
    g = Graph(name="net", opset=21, inputs=["x"], outputs=["y"])
    ints = lambda bits, *shape: rng.integers(-(1 << bits - 1), 1 << bits - 1, shape).astype(np.int8)  # noqa: E731
    for t in (
        Tensor("x", (None, 3, 6, 6), qparams=grid),
        Tensor("conv.weight", (4, 3, 3, 3), qparams=QParams(np.full(4, 0.01), np.zeros(4), 8, True, 0), data=ints(8, 4, 3, 3, 3)),
        Tensor("conv.bias", (4,), data=np.ones(4, np.float32)),
        Tensor("c", (None, 4, 4, 4), qparams=grid),
        Tensor("t", (None, 4, 4, 4), qparams=grid),
        Tensor("shape", (2,), "int64", data=np.array([0, -1])),
        Tensor("f", (None, 64), qparams=grid),
        Tensor("fc.weight", (5, 64), qparams=QParams(np.full((5, 4), 0.02), np.zeros((5, 4)), 4, True, 1, 16), data=ints(4, 5, 64)),
        Tensor("z", (None, 5), qparams=QParams(np.float32(0.1), 100)),
        Tensor("one", (), data=np.array(1, np.float32)),
        Tensor("y", (None, 5)),
    ):
        g.tensors[t.name] = t
    g.nodes = [
        Node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], {"strides": [1, 1], "pads": [0] * 4, "group": 1, "lo": 0.0}, "conv", "conv"),
        Node("Lut", ["c"], ["t"], {"table": np.arange(256, dtype=np.uint8)[::-1].copy(), "function": "Neg"}, "neg"),
        Node("Reshape", ["t", "shape"], ["f"], {}, "flat"),
        Node("Linear", ["f", "fc.weight"], ["z"], {"hi": float("inf")}, "fc", "fc"),
        Node("Add", ["z", "one"], ["y"], {}, "add"),
    ]
    return qgemm.Program(g)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "net.qgemm"
    qgemm.save(program(), path)
    return path.read_bytes()


def attempt(path, data: bytes) -> None:
    """Load and run; an error that is not typed propagates and fails the test."""
    path.write_bytes(data)
    try:
        fast = qgemm.load(path)
    except QgemmError as e:
        assert "'net.qgemm'" in str(e), e
        return
    try:
        fast(X)
    except QgemmError:
        pass


def refused(path, data: bytes, match: str, kind=ModelFormatError) -> None:
    path.write_bytes(data)
    with pytest.raises(kind, match=match) as e:
        qgemm.load(path)
    assert "'net.qgemm'" in str(e.value)


def parts(data: bytes) -> tuple[dict, bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def whole(header: dict | bytes, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def with_graph(data: bytes, graph: dict | str) -> bytes:
    header, body = parts(data)
    header["__metadata__"]["graph"] = graph if isinstance(graph, str) else json.dumps(graph)
    return whole(header, body)


def graph_of(data: bytes) -> dict:
    return json.loads(parts(data)[0]["__metadata__"]["graph"])


def test_the_file_is_valid_as_it_is(good, tmp_path):
    (tmp_path / "net.qgemm").write_bytes(good)
    assert np.array_equal(qgemm.load(tmp_path / "net.qgemm")(X), program()(X))
    (tmp_path / "net.qgemm").write_bytes(with_graph(good, graph_of(good)))
    assert np.array_equal(qgemm.load(tmp_path / "net.qgemm")(X), program()(X))


# ---- cut, flipped, foreign ----------------------------------------------------------------------------------------------


def test_cut_at_many_lengths(good, tmp_path):
    header = 8 + int.from_bytes(good[:8], "little")
    lengths = {*range(64), *range(64, len(good), 61), *range(header - 8, header + 8), *range(len(good) - 64, len(good))}
    for n in sorted(lengths):
        refused(tmp_path / "net.qgemm", good[:n], "is cut|damaged")
    refused(tmp_path / "net.qgemm", good + b"\0", "is cut")


@pytest.mark.parametrize("where", ["length", "header", "tensors"])
def test_flipped_bytes(where, good, tmp_path):
    end = 8 + int.from_bytes(good[:8], "little")
    low, high = {"length": (0, 8), "header": (8, end), "tensors": (end, len(good))}[where]
    rnd = random.Random(where)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rnd.choice([1, 1, 2, 8])):
            data[rnd.randrange(low, high)] ^= 1 << rnd.randrange(8)
        attempt(tmp_path / "net.qgemm", bytes(data))


def test_exchanged_words_of_the_header(good, tmp_path):
    """Damage that is still JSON: numbers, names and literals of the header put in each other's places."""
    header, body = parts(good)
    text = json.dumps(header)
    for seed in range(300):
        rnd = random.Random(seed)
        words = ["null", "true", "-1", "0", "1", "4", "7", "1e999", "1152921504606846976", "[]", "{}", '\\"x\\"', '\\"y\\"', '\\"int4\\"']
        numbers = [i for i, c in enumerate(text) if c.isdigit() and not text[i - 1].isalnum()]
        i = rnd.choice(numbers)
        j = i + 1
        while text[j].isdigit():
            j += 1
        attempt(tmp_path / "net.qgemm", whole((text[:i] + rnd.choice(words) + text[j:]).encode(), body))


def test_foreign_files(good, tmp_path):
    path = tmp_path / "net.qgemm"
    refused(path, b"", "is no .qgemm file")
    refused(path, b"\0" * 4096, "is no safetensors file")
    refused(path, b"PK\3\4" + b"\0" * 60, "is no .qgemm file")
    refused(path, safetensors.numpy.save({"w": np.ones(3)}), "holds no program")
    refused(path, safetensors.numpy.save({"w": np.ones(3)}, {"qgemm_format": "1"}), "has no graph")
    (tmp_path / "weights.safetensors").write_bytes(safetensors.numpy.save({"w": np.ones(3)}))
    with pytest.raises(ModelFormatError, match="'weights.safetensors' is a safetensors file that holds no program"):
        qgemm.load(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("version, remedy", [("2", "upgrade qgemm"), ("10", "upgrade qgemm"), ("0", "copy it again"), ("", "copy it again"),
                                             ("1.0", "copy it again"), ("²", "copy it again"), ("9" * 5000, "copy it again")])  # fmt: skip
def test_other_versions(version, remedy, good, tmp_path):
    header, body = parts(good)
    header["__metadata__"]["qgemm_format"] = version
    refused(tmp_path / "net.qgemm", whole(header, body), f"reads format 1; .*{remedy}")


# ---- the graph ----------------------------------------------------------------------------------------------------------

WILD = [None, True, False, -1, 0, 3, 1 << 20, 1 << 62, 1 << 70, 0.5, "", "x", "y", "int4", "\ud800", [], [0], [[]], [None], {}, {"a": 1},
        {"float": "zz"}, {"array": "attr/0"}, {"tuple": 1}]  # fmt: skip


def places(node, at=()):
    """Paths to every value of a JSON document."""
    yield at
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*at, key))


def put(document, at, value):
    if not at:
        return value
    document = copy.deepcopy(document)
    inner = document
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return document


def test_wrong_types_everywhere(good, tmp_path):
    graph, rnd = graph_of(good), random.Random(0)
    for at in places(graph):
        for value in rnd.sample(WILD, 3):
            attempt(tmp_path / "net.qgemm", with_graph(good, json.dumps(put(graph, at, value))))


def test_every_field_missing(good, tmp_path):
    graph = graph_of(good)
    for at in places(graph):
        if not at:
            continue
        damaged = copy.deepcopy(graph)
        inner = damaged
        for key in at[:-1]:
            inner = inner[key]
        del inner[at[-1]]
        attempt(tmp_path / "net.qgemm", with_graph(good, damaged))


def test_every_tensor_missing_or_of_another_kind(good, tmp_path):
    header, body = parts(good)
    arrays = safetensors.numpy.load(good)
    for key in arrays:
        rest = {k: a for k, a in arrays.items() if k != key}
        refused(tmp_path / "net.qgemm", safetensors.numpy.save(rest, header["__metadata__"]), f"needs the tensor '{key}', which is missing")
        for other in (arrays[key].astype(np.float64), np.concatenate([arrays[key].ravel()] * 2), arrays[key][None]):
            changed = safetensors.numpy.save({**rest, key: other}, header["__metadata__"])
            refused(tmp_path / "net.qgemm", changed, f"needs the tensor '{key}' as ")
    extra = safetensors.numpy.save({**arrays, "data/extra": np.ones(1)}, header["__metadata__"])
    refused(tmp_path / "net.qgemm", extra, "nothing in its graph uses the tensor 'data/extra'")


def named(entries: list, name: str) -> dict:
    return next(e for e in entries if e["name"] == name)


def edit(change: Callable[[dict, dict], None], match: str, kind=ModelFormatError):
    return pytest.param(change, match, kind, id=match)


def grid(name: str, **changes):
    return lambda t, n: named(t, name)["grid"].update(changes)


def node(name: str, **changes):
    return lambda t, n: named(n, name).update(changes)


def attrs(name: str, **changes):
    return lambda t, n: named(n, name)["attrs"].update(changes)


@pytest.mark.parametrize(
    "change, match, kind",
    [
        edit(node("neg", inputs=["f"]), "'neg' .Lut. reads 'f', which comes later or is part of a cycle"),
        edit(node("neg", inputs=["q"]), "'neg' .Lut. reads 'q', which is not there"),
        edit(node("neg", outputs=["c"]), "writes 'c', which another one gives"),
        edit(node("neg", outputs=["conv.bias"]), "writes 'conv.bias', which another one gives"),
        edit(node("neg", outputs=["x"]), "writes 'x', which another one gives"),
        edit(node("neg", outputs=["q"]), "writes 'q', which is not there"),
        edit(lambda t, n: n.reverse(), "comes later or is part of a cycle"),
        edit(lambda t, n: n.pop(), "nothing computes the output 'y'"),
        edit(lambda t, n: t.append(t[0]), "is missing or belongs to something else too"),
        edit(lambda t, n: t.append(named(t, "y")), "tensor 'y' is there twice"),
        edit(node("add", op="Mystery"), "does not execute: 'add' .Mystery.. It executes: .*Conv.*", UnsupportedOpError),
        edit(node("add", op="add"), "does not execute: 'add'", UnsupportedOpError),
        edit(grid("x", bits=33), "bits of the encoding of 'x' is 33, not an integer from 1 to 32"),
        edit(grid("x", bits=4), "zero_point must lie in .0, 15.", QuantizationError),
        edit(grid("x", signed=1), "does not say true or false"),
        edit(grid("x", axis=1), "is along an axis, with scales of shape"),
        edit(grid("x", block_size=4), "has blocks along no axis"),
        edit(grid("conv.weight", axis=2), "has 4 scales for the 3 channels of axis 2"),
        edit(grid("conv.weight", axis=9), "along axis 9"),
        edit(grid("conv.weight", bits=4), r"outside \[-8, 7\] of its int4 grid", QuantizationError),
        edit(grid("fc.weight", block_size=7), "in blocks of 7 along axis 1 needs scales of shape"),
        edit(grid("fc.weight", block_size=1 << 60), "block size .* not an integer"),
        edit(grid("fc.weight", block_size=(1 << 31) - 1), "needs scales of shape"),
        edit(lambda t, n: named(t, "x").update(dtype="float33"), "unknown element type 'float33'"),
        edit(lambda t, n: named(t, "x").update(dtype="string"), "input 'x' is string"),
        edit(lambda t, n: named(t, "x").update(shape=[1 << 60]), "a dimension of tensor 'x' is 1152921504606846976"),
        edit(lambda t, n: named(t, "one")["data"].update(shape=[1 << 60]), "a dimension of the data"),
        edit(lambda t, n: named(t, "one")["data"].update(shape=[1 << 40, 0]), "beyond what a file may declare"),
        edit(lambda t, n: named(t, "one")["data"].update(shape=[1] * 40), "beyond what a file may declare"),
        edit(lambda t, n: named(t, "one")["data"].update(shape=[None]), "has the shape"),
        edit(lambda t, n: named(t, "one")["data"].update(dtype="int4"), "has the shape"),
        edit(lambda t, n: named(t, "one")["data"].update(dtype="object"), "element type 'object'"),
        edit(attrs("neg", table=7), "has no table of 256 bytes"),
        edit(attrs("conv", strides=5), "node 'conv' .Conv. has inputs or attributes that do not fit"),
        edit(attrs("conv", pads=[0]), "node 'conv' .Conv. has inputs or attributes that do not fit"),
        edit(attrs("conv", lo={"float": "7ff"}), "object of no known kind"),
        edit(attrs("conv", lo={"array": "scale/x", "dtype": "float32", "shape": []}), "belongs to something else too"),
    ],
)
def test_graphs_that_contradict_themselves(change, match, kind, good, tmp_path):
    graph = graph_of(good)
    change(graph["tensors"], graph["nodes"])
    refused(tmp_path / "net.qgemm", with_graph(good, graph), match, kind)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
def test_scales_that_are_none(value, good, tmp_path):
    arrays = safetensors.numpy.load(good)
    arrays["scale/conv.weight"][2] = value
    data = safetensors.numpy.save(arrays, parts(good)[0]["__metadata__"])
    refused(tmp_path / "net.qgemm", data, "encoding of 'conv.weight': scale must be finite and > 0", QuantizationError)


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "[" * 500_000, '{"a":' * 100_000, '{"name": 1, "name": 2}', '{"name": NaN}', "9" * 100_000, '{"a": -Infinity}'],
    ids=lambda t: t[:12],
)
def test_text_that_is_no_graph(text, good, tmp_path):
    refused(tmp_path / "net.qgemm", with_graph(good, text), "graph that is not|has no")


def test_deep_attributes(good, tmp_path):
    for opening, close in (("[", "]"), ('{"tuple":[', "]}")):
        for depth in (16, 17, 100, 5_000, 200_000):
            graph = graph_of(good)
            graph["nodes"][-1]["attrs"]["deep"] = "HERE"
            text = json.dumps(graph).replace('"HERE"', opening * depth + close * depth)
            attempt(tmp_path / "net.qgemm", with_graph(good, text))


# ---- the container, and memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1 << 60, 0], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 62]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        {"shape": [1]},
        None,
    ],
    ids=str,
)
def test_entries_of_the_container(entry, good, tmp_path):
    header, body = parts(good)
    key = next(k for k in header if k != "__metadata__")
    refused(tmp_path / "net.qgemm", whole({**header, key: entry}, body), "is no safetensors file|needs the tensor")


def test_headers_that_would_fill_the_memory(good, tmp_path):
    refused(tmp_path / "net.qgemm", (files._HEADER_BYTES + 1).to_bytes(8, "little") + b" " * (files._HEADER_BYTES + 1), "has a header of")
    refused(tmp_path / "net.qgemm", with_graph(good, " " * (files._GRAPH_BYTES + 1)), "has a graph of")
    refused(tmp_path / "net.qgemm", b"\xff" * 8 + good[8:], "its header asks for")


def test_one_large_constant_read_by_very_many_nodes(tmp_path):
    """Each node would pack its own copy."""
    g = Graph(inputs=["x0"], outputs=["x0"], tensors={"x0": Tensor("x0", (None, 1024))})
    g.tensors["w"] = Tensor("w", (1024, 1024), data=np.zeros((1024, 1024), np.float32))
    for i in range(400):
        g.tensors[f"x{i + 1}"] = Tensor(f"x{i + 1}", (None, 1024))
        g.nodes.append(Node("Linear", [f"x{i}", "w"], [f"x{i + 1}"], {}, f"n{i}"))
    with pytest.raises(ModelFormatError, match="400 nodes read 4,194,304 bytes of constants so often"):
        document.encode(g)
    g.nodes = g.nodes[:200]
    document.encode(g)


def test_the_largest_hostile_graph_stays_in_bounded_memory(good, tmp_path):
    """A graph as large as a file may have, made of the smallest JSON values, in a process of its own with 3 GiB of address space."""
    graph = graph_of(good)
    graph["nodes"][-1]["attrs"]["many"] = "HERE"
    text = json.dumps(graph, separators=(",", ":"))
    many = "[" + "[]," * ((files._GRAPH_BYTES - len(text)) // 3 - 4) + "0]"
    (tmp_path / "net.qgemm").write_bytes(with_graph(good, text.replace('"HERE"', many)))
    code = "import sys, qgemm; qgemm.load(sys.argv[1])"
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))  # noqa: E731
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "net.qgemm"], capture_output=True, text=True, preexec_fn=limit,
                         env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PATH": ""})  # fmt: skip
    assert run.returncode == 0 or "ModelFormatError" in run.stderr, run.stderr
