"""qgemm.save and qgemm.load: the same bits on every instruction set, the same report, the same file every time."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import qgemm
from qgemm import _core, cli
from qgemm.errors import ConfigError, DTypeError, MissingDependencyError, ModelFormatError, QuantizationError, UnsupportedOpError
from qgemm.graph import document
from qgemm.graph.ir import Graph, Node, QParams, Tensor

DATA = Path(cli.__file__).parent / "data"


def digits(scheme: str) -> qgemm.Program:
    return qgemm.load(DATA / f"digits_{scheme}.onnx")


def images(rng) -> np.ndarray:
    return rng.standard_normal((3, 1, 28, 28)).astype(np.float32)


def same_graph(a: Graph, b: Graph) -> None:
    assert (a.name, a.opset, a.inputs, a.outputs) == (b.name, b.opset, b.inputs, b.outputs)
    assert list(a.tensors) == list(b.tensors)
    for key, t in a.tensors.items():
        u = b.tensors[key]
        assert (t.name, t.shape, t.dtype, t.is_const) == (u.name, u.shape, u.dtype, u.is_const)
        assert t.qparams is u.qparams is None or t.qparams.same(u.qparams)
        if t.is_const:
            assert same_value(t.data, u.data)
    for n, m in zip(a.nodes, b.nodes, strict=True):
        assert (n.op, n.inputs, n.outputs, n.name, n.module) == (m.op, m.inputs, m.outputs, m.name, m.module)
        assert list(n.attrs) == list(m.attrs) and all(same_value(n.attrs[k], m.attrs[k]) for k in n.attrs)


def same_value(a, b) -> bool:
    """Equal in type and in every bit: NaN equals itself, -0.0 differs from 0.0, True from 1."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_value, a, b))
    return struct.pack(">d", a) == struct.pack(">d", b) if isinstance(a, float) else a == b


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
def test_graph_report_and_outputs_are_the_same(scheme, rng, tmp_path):
    fast, x = digits(scheme), images(rng)
    qgemm.save(fast, tmp_path / "net.qgemm")
    again = qgemm.load(tmp_path / "net.qgemm")
    same_graph(fast.graph, again.graph)
    assert qgemm.report(again).rows == qgemm.report(fast).rows and str(qgemm.report(again)) == str(qgemm.report(fast))
    want, got = fast.trace(x), again.trace(x)
    assert want.keys() == got.keys() and all(same_value(want[k], got[k]) for k in want)


def test_every_instruction_set_loads_the_same_file_to_the_same_bits(rng, tmp_path, isa):
    """``isa`` holds while the file is loaded; it was written under the best one."""
    path, x = tmp_path / "net.qgemm", images(rng)
    _core.force_isa(None)
    fast = digits("w4a8")
    want = fast(x)
    qgemm.save(fast, path)
    _core.force_isa(isa)
    assert same_value(qgemm.load(path)(x), want)


def test_the_same_program_gives_the_same_bytes_in_every_process(tmp_path):
    code = "import sys, qgemm; qgemm.save(qgemm.load(sys.argv[1]), sys.argv[2])"
    files = []
    for seed in ("1", "2"):
        files.append(tmp_path / f"{seed}.qgemm")
        env = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, DATA / "digits_w8a8.onnx", files[-1]], check=True, env=env)
    assert files[0].read_bytes() == files[1].read_bytes()
    qgemm.save(qgemm.load(files[0]), tmp_path / "again.qgemm")
    assert (tmp_path / "again.qgemm").read_bytes() == files[0].read_bytes()


def test_loading_needs_neither_onnx_nor_torch(tmp_path):
    qgemm.save(digits("w8a8"), tmp_path / "net.qgemm")
    code = "import sys; sys.modules['onnx'] = sys.modules['torch'] = None; import qgemm; print(len(qgemm.load(sys.argv[1])))"
    got = subprocess.run([sys.executable, "-c", code, tmp_path / "net.qgemm"], capture_output=True, text=True, check=True)
    assert int(got.stdout) == len(digits("w8a8"))


def test_what_lies_in_the_file(tmp_path):
    fast = digits("w4a8")
    qgemm.save(fast, tmp_path / "net.qgemm")
    with safetensors.safe_open(tmp_path / "net.qgemm", framework="numpy") as f:
        assert f.metadata()["qgemm_format"] == "1" and json.loads(f.metadata()["graph"])["inputs"] == fast.inputs
        packed = 0
        for t in fast.graph.constants():
            held = f.get_tensor(f"data/{t.name}")
            if t.qparams is not None and t.qparams.bits == 4:
                assert same_value(_core.unpack_int4(held, t.data.shape[-1], True), t.data)
                packed += 1
            else:
                assert same_value(held, t.data)
            if t.qparams is not None:
                assert same_value(f.get_tensor(f"scale/{t.name}"), t.qparams.scale)
        assert packed


# ---- every kind of value ------------------------------------------------------------------------------------------------

VALUES = {
    "nothing": None, "yes": True, "no": False, "zero": 0, "int": -(1 << 63), "large": (1 << 64) - 1,
    "float": 0.1, "whole": 1.0, "minus_zero": -0.0, "tiny": 5e-324, "largest": sys.float_info.max,
    "inf": math.inf, "minus_inf": -math.inf, "nan": math.nan, "nan_payload": struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0],
    "text": 'NOTSET "\\\n\0\u00e9\U0001f600', "empty": "", "ints": [1, -2, 3], "floats": [0.5, math.nan, -math.inf, 2.0],
    "texts": ["a", ""], "none_inside": [None, True, 1, 1.0], "nested": [[1, [2.0]], []], "pair": (1, ("x", [None])),
    "table": np.arange(256, dtype=np.uint8), "scalar_array": np.array(3.5, np.float32), "void": np.zeros((0, 4), np.int64),
    "strided": np.arange(12, dtype=np.int32).reshape(3, 4).T, "reversed": np.arange(5.0)[::-1],
    "bools": np.array([[True, False]]), "half": np.array([1, np.inf], np.float16), "odd": np.array([np.nan, -0.0]),
    "np_float": np.float32(6), "np_int": np.int64(-7), "np_bool": np.bool_(True), "np_inf": np.float64(np.inf),
    "arrays": [np.int8(1), np.ones((2, 1), np.uint16)],
}  # fmt: skip


def small(attrs: dict | None = None) -> Graph:
    grid = QParams(np.float32(0.1), 3)
    tensors = [Tensor("x", (None, 5), "float32", grid), Tensor("y", (None, 5), "float32", grid)]
    return Graph(
        [Node("Identity", ["x"], ["y"], attrs or {}, "same", "block.same")], {t.name: t for t in tensors}, ["x"], ["y"], "tiny", 21
    )


def kept(graph: Graph, tmp_path) -> Graph:
    qgemm.save(qgemm.Program(graph), tmp_path / "net.qgemm")
    return qgemm.load(tmp_path / "net.qgemm").graph


def test_every_kind_of_attribute_comes_back_exactly(tmp_path):
    same_graph(small(VALUES), kept(small(VALUES), tmp_path))


def test_lists_inside_each_other(tmp_path):
    deep: list = []
    for _ in range(16):
        deep = [deep]
    same_graph(small({"deep": deep}), kept(small({"deep": deep}), tmp_path))
    deep.append(deep)
    with pytest.raises(ModelFormatError, match="more than 16 lists inside each other"):
        kept(small({"deep": deep}), tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        b"bytes",
        {"a": 1},
        {1},
        1 << 64,
        1j,
        object(),
        print,
        "\ud800",
        np.array(["a"]),
        np.array([1j]),
        np.array([None]),
        np.str_("a"),
        [[{}]],
    ],
    ids=lambda value: type(value).__name__,  # repr would name addresses, which differ from process to process
)
def test_what_a_file_cannot_hold_is_refused_when_it_is_saved(value, tmp_path):
    program = qgemm.Program(small({"odd": value}))
    with pytest.raises(ModelFormatError, match=r"cannot be kept in a file: attribute 'odd' of node 'same' \(Identity\)"):
        qgemm.save(program, tmp_path / "net.qgemm")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("columns", [0, 1, 2, 7])
@pytest.mark.parametrize("bits, signed, dtype", [(4, True, np.int8), (4, False, np.uint8), (2, True, np.int8), (8, True, np.int8),
                                                 (4, True, np.int32), (16, False, np.uint16), (32, True, np.int32)])  # fmt: skip
def test_constants_of_every_grid(bits, signed, dtype, columns, rng, tmp_path):
    g = small()
    scale, zero = np.float32([0.1, 0.2, 1e-40]), np.int32([0, 1, 0])
    qp = QParams(scale, zero, bits, signed, axis=0)
    data = rng.integers(qp.qmin, qp.qmax, (3, columns), endpoint=True).astype(dtype)
    g.tensors["w"] = Tensor("w", (3, columns), "int4", qp, data)
    g.tensors["one"] = Tensor("one", (), "float32", QParams(np.float32(2), 0, bits, signed), np.array(1, dtype))
    same_graph(g, kept(g, tmp_path))


def test_blocks_and_shapes_that_are_not_known(rng, tmp_path):
    g = small()
    g.tensors["w"] = Tensor("w", None, "float32", QParams(np.full((2, 2), 0.5), np.zeros((2, 2)), 4, True, 1, 3), np.ones((2, 5), np.int8))
    g.tensors["z"] = Tensor("z", None, "undefined")
    g.tensors["a b/\u00e9"] = Tensor("a b/\u00e9", (None, None), "bool", data=np.array([[True]]))
    same_graph(g, kept(g, tmp_path))


def test_integers_off_their_grid_are_refused_when_saved(tmp_path):
    program = qgemm.Program(small())
    program.graph.tensors["w"] = Tensor("w", (1,), "int4", QParams(np.float32(1), 0, 4, True), np.array([9], np.int8))
    with pytest.raises(QuantizationError, match=r"'w' holds 9..9, outside \[-8, 7\]"):
        qgemm.save(program, tmp_path / "net.qgemm")


def test_a_block_declared_larger_than_its_axis_costs_nothing():
    t = Tensor("w", (2, 3), "float32", QParams(np.ones((2, 1)), np.zeros((2, 1)), 8, True, 1, 1 << 30), np.ones((2, 3), np.int8))
    assert document.encode(Graph(tensors={"w": t}))[0]["tensors"][0]["grid"]["block_size"] == 1 << 30
    from qgemm.graph.grids import real

    assert same_value(real(t), np.ones((2, 3), np.float32))


# ---- files --------------------------------------------------------------------------------------------------------------


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "net.qgemm"
    qgemm.save(qgemm.Program(small()), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        qgemm.save(digits("w8a8"), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["net.qgemm"]


def test_a_link_keeps_pointing_at_the_file(tmp_path):
    (tmp_path / "link.qgemm").symlink_to(tmp_path / "net.qgemm")
    qgemm.save(qgemm.Program(small()), str(tmp_path / "link.qgemm"))
    assert (tmp_path / "link.qgemm").is_symlink() and len(qgemm.load(tmp_path / "net.qgemm")) == 2


def test_the_name_does_not_matter_the_content_does(tmp_path):
    qgemm.save(qgemm.Program(small()), tmp_path / "net.bin")
    assert len(qgemm.load(tmp_path / "net.bin")) == 2
    (tmp_path / "onnx.qgemm").write_bytes((DATA / "digits_w8a8.onnx").read_bytes())
    with pytest.raises(ModelFormatError, match="'onnx.qgemm' is no .qgemm file"):
        qgemm.load(tmp_path / "onnx.qgemm")


def test_on_unsupported(tmp_path):
    path = tmp_path / "net.qgemm"
    g = small()
    g.tensors["y"].qparams = None
    g.tensors["w"] = Tensor("w", (5, 5), "float32", data=np.eye(5, dtype=np.float32))
    g.nodes = [Node("Linear", ["x", "w"], ["y"], {}, "fc")]
    qgemm.save(qgemm.Program(g), path)
    with pytest.raises(UnsupportedOpError, match="'net.qgemm': .*'fc'"):
        qgemm.load(path, on_unsupported="raise")
    qgemm.save(qgemm.Program(small(), "raise"), path)
    assert qgemm.load(path).on_unsupported == "raise"
    with pytest.raises(ConfigError, match="leave out encodings"):
        qgemm.load(path, encodings={})


def test_bad_arguments(tmp_path, monkeypatch):
    with pytest.raises(DTypeError, match="takes a qgemm.Program, got Graph"):
        qgemm.save(small(), tmp_path / "net.qgemm")
    with pytest.raises(FileNotFoundError):
        qgemm.save(qgemm.Program(small()), tmp_path / "no" / "net.qgemm")
    with pytest.raises(ModelFormatError, match="there is no file"):
        qgemm.load(tmp_path / "net.qgemm")
    (tmp_path / "dir.qgemm").mkdir()
    with pytest.raises(ModelFormatError, match="'dir.qgemm' is not a file"):
        qgemm.load(tmp_path / "dir.qgemm")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(MissingDependencyError, match=r"qgemm\[onnx\]"):
        qgemm.save(qgemm.Program(small()), tmp_path / "net.qgemm")


def test_inspect_prints_the_same_for_the_file(tmp_path, capsys):
    qgemm.save(digits("w8a8"), tmp_path / "net.qgemm")
    assert cli.main(["inspect", str(DATA / "digits_w8a8.onnx")]) == 0
    want = capsys.readouterr().out
    assert cli.main(["inspect", str(tmp_path / "net.qgemm")]) == 0 and capsys.readouterr().out == want
    (tmp_path / "cut.qgemm").write_bytes((tmp_path / "net.qgemm").read_bytes()[:-1])
    assert cli.main(["inspect", str(tmp_path / "cut.qgemm")]) == 2 and "ModelFormatError: 'cut.qgemm'" in capsys.readouterr().err
