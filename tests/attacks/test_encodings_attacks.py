"""Encodings files that are cut, wrong or hostile: always EncodingError naming file, tensor, rule and remedy; never a crash."""

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qgemm.aimet import apply_encodings, read_encodings
from qgemm.errors import EncodingError, QgemmError
from qgemm.graph.ir import Graph, Node, Tensor

ACT = dict(bitwidth=8, dtype="int", is_symmetric="False", min=-1.0, max=1.0, scale=0.01, offset=-100)
PAR = dict(bitwidth=4, dtype="int", is_symmetric="True", min=-0.8, max=0.7, scale=0.1, offset=-8)


def files() -> dict[str, dict]:
    """One valid file of each form, for a Gemm of 3 outputs and 8 inputs."""
    v1 = lambda **kw: dict(dtype="INT", **kw)  # noqa: E731
    act1 = v1(name="x", bw=8, is_sym=False, scale=[0.01], offset=[-100], enc_type="PER_TENSOR")
    act2 = dict(name="x", output_dtype="uint8", y_scale=0.01, y_zero_point=100)
    blocks, ints = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], [[16, 3], [16, 5], [7, 16]]
    params1 = {
        "channel": v1(bw=4, is_sym=True, scale=[0.1, 0.2, 0.3], offset=[-8] * 3, enc_type="PER_CHANNEL"),
        "block": v1(bw=4, is_sym=True, scale=sum(blocks, []), offset=[-8] * 6, enc_type="PER_BLOCK", block_size=4),
        "lpbq": v1(
            bw=8, is_sym=True, scale=[0.1, 0.2, 0.3], offset=[-128] * 3, enc_type="LPBQ",
            block_size=4, compressed_bw=4, per_block_int_scale=sum(ints, []),
        ),
    }  # fmt: skip
    params2 = {
        "channel": dict(output_dtype="int4", y_scale=[0.1, 0.2, 0.3], axis=0),
        "block": dict(output_dtype="int4", y_scale=blocks, axis=1, block_size=4),
        "lpbq": dict(output_dtype="int4", axis=1, block_size=4, per_block_int_scale=ints, per_channel_float_scale=[[0.1], [0.2], [0.3]]),
    }
    out = {"0.6.1": dict(version="0.6.1", activation_encodings={"x": [ACT]}, param_encodings={"w": [dict(PAR) for _ in range(3)]})}
    for kind, enc in params1.items():
        out[f"1.0.0 {kind}"] = dict(version="1.0.0", activation_encodings=[act1], param_encodings=[dict(name="w", **enc)])
    for kind, enc in params2.items():
        out[f"2.0.0 {kind}"] = dict(version="2.0.0", producer={"package": "aimet-torch"}, encodings=[act2, dict(name="w", **enc)])
    nested = dict(output_dtype="int4", axis=1, block_size=4, y_scale=dict(x=ints, x_scale=[0.1, 0.2, 0.3], axis=-2))
    out["2.1.0 lpbq"] = dict(version="2.1.0", encodings=[act2, dict(name="w", **nested)])
    out["torch"] = dict(activation_encodings={"fc": {"input": {"0": ACT}, "output": {"0": ACT}}}, param_encodings={"fc.weight": [PAR] * 3})
    return copy.deepcopy(out)


FILES = files()
BY_NAME = [k for k in FILES if k != "torch"]


def graph() -> Graph:
    g = Graph(inputs=["x"], outputs=["y"])
    g.tensors = {
        "x": Tensor("x", (None, 8)),
        "w": Tensor("w", (3, 8), data=np.linspace(-0.7, 0.7, 24, dtype=np.float32).reshape(3, 8)),
        "y": Tensor("y", (None, 3)),
    }
    g.nodes = [Node("Gemm", ["x", "w"], ["y"], {"transB": 1}, "fc")]
    return g


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_valid_as_they_are(name):
    assert len(read_encodings(FILES[name])) >= 2


@pytest.mark.filterwarnings("ignore:.*not on the grid")
@pytest.mark.parametrize("name", BY_NAME)
def test_they_fit_the_graph(name):
    g = graph()
    apply_encodings(g, FILES[name])
    assert g.tensors["w"].data.dtype == np.int8 and g.tensors["x"].qparams.zero_point == 100


@pytest.mark.parametrize("name", FILES)
def test_cut_at_every_byte(name, tmp_path):
    text = json.dumps(FILES[name])
    path = tmp_path / "net.encodings"
    for n in range(len(text)):
        path.write_text(text[:n])
        with pytest.raises(EncodingError, match="net.encodings: the file is (cut off|empty)|net.encodings: not JSON") as e:
            read_encodings(path)
        assert "again" in str(e.value)


@pytest.mark.parametrize(
    "content",
    [b"\x08\x07\x12\x0caimet", b"\xff\xfe{}", b"[1, 2]", b"null", b"3", b'"x"', b"{}", b"[" * 100_000, b'{"a":' * 50_000, b"\x00" * 64],
    ids=lambda c: repr(c[:12]),
)
def test_not_an_encodings_file(content, tmp_path):
    path = tmp_path / "net.encodings"
    path.write_bytes(content)
    with pytest.raises(EncodingError, match="net.encodings"):
        read_encodings(path)


def test_no_file(tmp_path):
    with pytest.raises(EncodingError, match="cannot be read.*give the path"):
        read_encodings(tmp_path / "gone.encodings")
    with pytest.raises(EncodingError, match="cannot be read"):
        read_encodings(tmp_path)
    with pytest.raises(EncodingError, match="path or a dict"):
        read_encodings(3)


@pytest.mark.parametrize("version", [None, "", "0.5.0", "3.0.0", 1, 2.0, ["2.0.0"], {"a": 1}])
def test_unknown_versions(version):
    data = copy.deepcopy(FILES["2.0.0 channel"])
    data["version"] = version
    with pytest.raises(EncodingError, match="version .* is not one of 0.6.1, 1.0.0, 2.0.0, 2.1.0; export"):
        read_encodings(data)


@pytest.mark.parametrize("name", BY_NAME)
def test_missing_or_wrong_sections(name):
    for key in [k for k in FILES[name] if k.endswith("encodings")]:
        data = copy.deepcopy(FILES[name])
        del data[key]
        with pytest.raises(EncodingError, match=f"the section '{key}' is missing"):
            read_encodings(data)
        for wrong in (None, 3, "x", [] if isinstance(FILES[name][key], dict) else {}):
            data[key] = wrong
            with pytest.raises(EncodingError, match=f"'{key}' must be"):
                read_encodings(data)


def edit(name, tensor, **fields):
    """The file with fields of one tensor changed (a value of ... removes the field)."""
    data = copy.deepcopy(FILES[name])
    if "encodings" in data:
        targets = [e for e in data["encodings"] if e["name"] == tensor]
    elif isinstance(data["param_encodings"], list):
        targets = [e for k in ("activation_encodings", "param_encodings") for e in data[k] if e["name"] == tensor]
    else:
        targets = (data["activation_encodings"].get(tensor) or data["param_encodings"][tensor])[-1:]
    for t in targets:
        for k, v in fields.items():
            if v is ...:
                del t[k]
            else:
                t[k] = v
    return data


BAD_SCALES = [0.0, -0.1, float("nan"), float("inf"), 1e-60, 1e60]


@pytest.mark.parametrize("scale", BAD_SCALES)
def test_bad_scales(scale):
    for name, fields in [
        ("0.6.1", {"scale": scale}),
        ("1.0.0 channel", {"scale": [0.1, scale, 0.1]}),
        ("1.0.0 lpbq", {"scale": [0.1, scale, 0.1]}),
        ("2.0.0 channel", {"y_scale": [0.1, scale, 0.1]}),
        ("2.0.0 block", {"y_scale": [[0.1, 0.1], [0.1, scale], [0.1, 0.1]]}),
        ("2.0.0 lpbq", {"per_channel_float_scale": [[0.1], [scale], [0.1]]}),
    ]:
        with pytest.raises(EncodingError, match="tensor 'w': every scale must be finite and > 0.*calibrate"):
            read_encodings(edit(name, "w", **fields))


@pytest.mark.parametrize("offset", [1, -256, 0.5, 10**30, float("nan"), "-3", True, None])
def test_bad_offsets(offset):
    for name, field in (("0.6.1", "offset"), ("1.0.0 channel", "offset"), ("2.0.0 channel", "y_zero_point")):
        value = offset if name == "0.6.1" or "2.0" in name else [offset]
        if "2.0" in name and offset in (1, None):
            continue  # a valid zero point; an absent one
        with pytest.raises(EncodingError, match="tensor 'x'"):
            read_encodings(edit(name, "x", **{field: value}))


@pytest.mark.parametrize(
    ("name", "fields", "rule"),
    [
        ("0.6.1", {"bitwidth": 0}, "must lie in 1..32"),
        ("0.6.1", {"bitwidth": 33}, "must lie in 1..32"),
        ("0.6.1", {"bitwidth": "8"}, "must be an integer"),
        ("0.6.1", {"bitwidth": 8}, "different dtypes or bit widths"),
        ("0.6.1", {"is_symmetric": "False"}, "some of its channels are symmetric"),
        ("0.6.1", {"is_symmetric": "maybe"}, "must be true or false"),
        ("0.6.1", {"dtype": "posit"}, "different dtypes"),
        ("0.6.1", {"scale": ...}, "'scale' is missing"),
        ("0.6.1", {"zero_point_shift": 0.5}, "grid between the integers"),
        ("1.0.0 channel", {"enc_type": "PER_MOON"}, "enc_type must be"),
        ("1.0.0 channel", {"enc_type": "PER_TENSOR"}, "PER_TENSOR has one scale, got 3"),
        ("1.0.0 channel", {"offset": [-8] * 2}, "'scale' has 3 values and 'offset' 2"),
        ("1.0.0 channel", {"scale": []}, "'scale' is empty"),
        ("1.0.0 channel", {"scale": ["0.1", 0.2, 0.3]}, "must hold numbers only"),
        ("1.0.0 channel", {"bw": ...}, "'bw' is missing"),
        ("1.0.0 channel", {"dtype": 7}, "dtype must be"),
        ("1.0.0 block", {"block_size": ...}, "'block_size' is missing"),
        ("1.0.0 block", {"block_size": 0}, "must lie in 1"),
        ("1.0.0 lpbq", {"per_block_int_scale": [0, 1, 2, 3, 4, 5]}, "must lie in 1..16"),
        ("1.0.0 lpbq", {"per_block_int_scale": [17] * 6}, "must lie in 1..16"),
        ("1.0.0 lpbq", {"offset": [-8] * 3}, "LPBQ is symmetric"),
        ("2.0.0 channel", {"output_dtype": "int"}, "must name an integer"),
        ("2.0.0 channel", {"output_dtype": "int64"}, "1 to 32 bits"),
        ("2.0.0 channel", {"output_dtype": ...}, "'output_dtype' is missing"),
        ("2.0.0 channel", {"axis": ...}, "no axis says whose"),
        ("2.0.0 channel", {"axis": 99}, "'axis' must lie in"),
        ("2.0.0 channel", {"y_zero_point": [0, 0]}, "they must be the same"),
        ("2.0.0 channel", {"y_zero_point": [0, 0, 8]}, "must lie in -8..7"),
        ("2.0.0 channel", {"y_scale": [[0.1], [0.2, 0.3]]}, "ragged"),
        ("2.0.0 channel", {"y_scale": [[0.1, 0.2, 0.3]]}, "flat list"),
        ("2.0.0 lpbq", {"block_size": ...}, "needs both"),
        ("2.0.0 lpbq", {"output_dtype": "uint4"}, "signed output_dtype"),
        ("2.1.0 lpbq", {"y_scale": {"x": [[1, 2]]}}, "'x_scale' is missing"),
        ("2.1.0 lpbq", {"y_scale": {"x": [[1, 2]], "x_scale": [0.1], "block_size": 2}}, "not LPBQ"),
    ],
)
def test_bad_fields(name, fields, rule):
    with pytest.raises(EncodingError, match=f"<dict>: tensor 'w': .*{rule}.*;"):
        read_encodings(edit(name, "w", **fields))


def test_the_same_name_twice():
    for name, key in (("1.0.0 channel", "param_encodings"), ("2.0.0 channel", "encodings")):
        data = copy.deepcopy(FILES[name])
        data[key] *= 2
        with pytest.raises(EncodingError, match="it has two encodings"):
            read_encodings(data)


@pytest.mark.parametrize(
    ("name", "fields", "rule"),
    [
        ("1.0.0 channel", {"scale": [0.1] * 5, "offset": [-8] * 5}, "its encoding has 5 scales, but axis 0 has 3 channels"),
        ("1.0.0 block", {"block_size": 3}, "do not divide it"),
        ("1.0.0 block", {"scale": [0.1] * 7, "offset": [-8] * 7}, "do not divide it"),
        ("1.0.0 lpbq", {"scale": [0.1] * 2, "offset": [-128] * 2}, "do not divide it"),
        ("2.0.0 channel", {"axis": 1}, "its encoding has 3 scales, but axis 1 has 8"),
        ("2.0.0 channel", {"axis": -3}, "axis -3, which the tensor does not have"),
        ("2.0.0 block", {"y_scale": [[0.1, 0.2]] * 4}, "do not divide it"),
        ("2.0.0 block", {"axis": 0}, "do not divide it"),
        ("2.0.0 block", {"block_size": 1 << 30}, "do not divide it"),
        ("2.0.0 lpbq", {"per_block_int_scale": [16, 16, 16]}, "do not divide it"),
        ("2.1.0 lpbq", {"axis": 5}, "axis 5, which the tensor does not have"),
    ],
)
def test_scales_that_do_not_fit_the_weight(name, fields, rule):
    with pytest.raises(EncodingError, match=rf"<dict>: tensor 'w' of shape \(3, 8\): .*{rule}.*; use the encodings file"):
        apply_encodings(graph(), edit(name, "w", **fields))


def test_0_6_1_with_a_wrong_number_of_channels():
    data = copy.deepcopy(FILES["0.6.1"])
    data["param_encodings"]["w"] = [PAR] * 5
    with pytest.raises(EncodingError, match="5 scales, but axis 0 has 3 channels"):
        apply_encodings(graph(), data)


def test_weights_that_are_not_numbers():
    g = graph()
    g.tensors["w"].data = g.tensors["w"].data.copy()
    g.tensors["w"].data[1, 2] = np.nan
    with pytest.raises(EncodingError, match="tensor 'w'.*NaN or Inf"):
        apply_encodings(g, FILES["1.0.0 channel"])


def test_encodings_of_nothing():
    for data in (dict(version="2.0.0", encodings=[]), dict(version="0.6.1", activation_encodings={}, param_encodings={})):
        with pytest.raises(EncodingError, match="holds no encodings; compute them"):
            apply_encodings(graph(), data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def paths(value, prefix=()):
    yield prefix
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for k, v in items:
        yield from paths(v, (*prefix, k))


@pytest.mark.filterwarnings("ignore:.*not on the grid")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(derandomize=True, max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_anywhere(data):
    """Replace any part of any file by anything: read and applied, or a typed error; nothing else."""
    file = copy.deepcopy(FILES[data.draw(st.sampled_from(sorted(FILES)))])
    path = data.draw(st.sampled_from([p for p in paths(file) if p]))
    at = file
    for k in path[:-1]:
        at = at[k]
    at[path[-1]] = data.draw(json_values)
    g = graph()
    try:
        apply_encodings(g, file)
    except QgemmError as e:
        assert len(str(e)) > 20
    else:
        for t in g.tensors.values():
            if t.qparams is not None and t.is_const:
                assert t.data.min() >= t.qparams.qmin and t.data.max() <= t.qparams.qmax
