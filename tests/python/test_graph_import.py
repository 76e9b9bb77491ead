"""ONNX files in: what is read, and what every kind of broken file says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qgemm
from onnx_nets import Builder, model, node
from qgemm.errors import MissingDependencyError, ModelFormatError, QgemmError, UnsupportedOpError
from qgemm.graph.from_onnx import import_onnx, scope_path

F = "float32"


def relu_net(shape=("n", 4), opset=21):
    return model([node("Relu", ["x"], "y", name="/act/Relu")], {"x": (F, list(shape))}, ["y"], opset=opset)


def test_faithful_import(rng):
    b = Builder()
    b.input("x", ["n", 3, 8, 8])
    w = b.weight("conv.weight", rng.integers(-7, 8, (4, 3, 3, 3)), np.ones(4), onnx_type=TensorProto.INT4)
    b.const("conv.bias", np.zeros(4, np.float32))
    b.add("Conv", [b.q("x", 0.1, 3), w, "conv.bias"], "y", name="/conv/Conv")
    g = import_onnx(b.model("y"))
    assert g.inputs == ["x"] and g.outputs == ["y"] and g.opset == 21
    assert [n.op for n in g.nodes] == ["DequantizeLinear", "QuantizeLinear", "DequantizeLinear", "Conv"]
    assert g.tensors["x"].shape == (None, 3, 8, 8) and g.tensors["x"].dtype == F
    ints = g.tensors["conv.weight_q"]
    assert ints.dtype == "int4" and ints.data.dtype == np.int8 and ints.data.min() >= -8
    assert g.nodes[-1].module == "conv" and g.nodes[-1].name == "/conv/Conv"
    assert g.tensors["y"].shape == (None, 4, 6, 6)


@pytest.mark.parametrize("opset", [13, 17, 21, 23])
def test_opsets(opset):
    assert import_onnx(relu_net(opset=opset)).opset == opset


@pytest.mark.parametrize("opset", [9, 12])
def test_an_old_opset_names_the_remedy(opset):
    with pytest.raises(ModelFormatError, match=r"opset \d+.*13 to 23.*opset_version=21"):
        import_onnx(relu_net(opset=opset))


def test_path_bytes_and_proto_are_the_same(tmp_path):
    m = relu_net()
    path = tmp_path / "net.onnx"
    onnx.save(m, path)
    x = np.array([[-1, 0, 1, 2]], np.float32)
    for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), m):
        assert qgemm.load(source)(x).tolist() == [[0, 0, 1, 2]]


def test_constant_nodes_become_constants():
    for attr in ({"value": numpy_helper.from_array(np.float32([1, 2]))}, {"value_floats": [1.0, 2.0]}, {"value_float": 1.0}):
        m = model([node("Constant", [], "c", **attr), node("Add", ["x", "c"], "y")], {"x": (F, ["n", 2])}, ["y"])
        g = import_onnx(m)
        assert [n.op for n in g.nodes] == ["Add"] and g.tensors["c"].is_const


def test_half_precision_constants_are_widened():
    c = numpy_helper.from_array(np.float16([1, 2]), "h")
    m = model([node("Cast", ["h"], "c", to=1), node("Add", ["x", "c"], "y")], {"x": (F, ["n", 2])}, ["y"], {"h": c})
    assert qgemm.load(m)(np.zeros((1, 2), np.float32)).tolist() == [[1, 2]]


def big_weight(tmp_path):
    m = model([node("MatMul", ["x", "w"], "y")], {"x": (F, ["n", 64])}, ["y"], {"w": np.ones((64, 64), np.float32)})
    path = tmp_path / "net.onnx"
    onnx.save_model(m, path, save_as_external_data=True, location="net.data", size_threshold=16)
    return path


def test_external_data(tmp_path):
    assert qgemm.load(big_weight(tmp_path))(np.ones((2, 64), np.float32)).tolist() == [[64.0] * 64] * 2


def test_missing_external_data_says_so(tmp_path):
    path = big_weight(tmp_path)
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelFormatError, match="external data"):
        import_onnx(path)


def test_cut_external_data_says_so(tmp_path):
    path = big_weight(tmp_path)
    data = tmp_path / "net.data"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ModelFormatError):
        import_onnx(path)


def test_external_data_of_bytes_asks_for_the_path(tmp_path):
    with pytest.raises(ModelFormatError, match="pass the path"):
        import_onnx(big_weight(tmp_path).read_bytes())


def test_external_data_outside_the_folder_is_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 64 * 64 * 4)
    (tmp_path / "in").mkdir()
    path = big_weight(tmp_path / "in")
    m = onnx.load(path, load_external_data=False)
    for e in m.graph.initializer[0].external_data:
        if e.key == "location":
            e.value = "../secret"
    path.write_bytes(m.SerializeToString())
    with pytest.raises(ModelFormatError):
        import_onnx(path)


def test_truncated_at_every_length(tmp_path):
    """No cut file loads as a network, none crashes, every one is a typed error."""
    data = relu_net().SerializeToString()
    for n in range(len(data)):
        with pytest.raises(QgemmError):
            import_onnx(data[:n])


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b'{"version": "1.0.0"}', b"\xff" * 1000])
def test_other_files(tmp_path, data):
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelFormatError, match="net.onnx"):
        import_onnx(path)


def test_no_such_file(tmp_path):
    with pytest.raises(ModelFormatError, match="no file"):
        import_onnx(tmp_path / "none.onnx")
    with pytest.raises(ModelFormatError, match="cannot be read"):
        import_onnx(tmp_path)


def test_a_cycle_is_named():
    m = model([node("Relu", ["x"], "a")], {"x": (F, ["n", 2])}, ["a"])
    for op, ins, out in (("Add", ["x", "c"], "b"), ("Relu", ["b"], "c")):
        m.graph.node.append(node(op, ins, out, name=f"node_{out}"))
    with pytest.raises(ModelFormatError, match="cycle.*node_"):
        import_onnx(m)


def test_an_undefined_input_is_invalid():
    m = relu_net()
    m.graph.node[0].input[0] = "nobody"
    with pytest.raises(ModelFormatError, match="not a valid ONNX model"):
        import_onnx(m)


def test_unknown_operators_are_all_named_with_the_list():
    m = model([node("Det", ["x"], "a", name="first"), node("Add", ["a", "a"], "y")], {"x": (F, [2, 2])}, {"y": (F, [])})
    with pytest.raises(UnsupportedOpError, match=r"'first' \(Det\).*It executes: .*Conv.*Linear"):
        qgemm.load(m)


def test_custom_domains_are_unknown_operators():
    m = model([], {"x": (F, ["n", 2])}, {"y": (F, ["n", 2])})
    m.graph.node.append(helper.make_node("quantize", ["x"], ["y"], name="q", domain="aimet"))
    m.opset_import.append(helper.make_opsetid("aimet", 1))
    with pytest.raises(UnsupportedOpError, match="aimet::quantize"):
        qgemm.load(m)


def test_control_flow_is_refused_by_name():
    branch = helper.make_graph([node("Identity", ["x"], "z")], "b", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])])
    m = model([node("If", ["c"], "y", then_branch=branch, else_branch=branch)], {"x": (F, [2]), "c": ("bool", [])}, ["y"])
    with pytest.raises(UnsupportedOpError, match="If"):
        qgemm.load(m)


def test_local_functions_are_inlined():
    fn = helper.make_function("local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], "b")], [helper.make_opsetid("", 21)])
    m = model([], {"x": (F, ["n", 2])}, {"y": (F, ["n", 2])})
    m.graph.node.append(helper.make_node("Twice", ["x"], ["y"], domain="local"))
    m.opset_import.append(helper.make_opsetid("local", 1))
    m.functions.append(fn)
    assert qgemm.load(m)(np.float32([[1, 2]])).tolist() == [[2, 4]]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/features/features.0/features.0.0/Conv", "features.0.0"),
        ("/encoder/layers/layers.3/mlp/Gelu", "encoder.layers.3.mlp"),
        ("/fc/Gemm", "fc"),
        ("/Flatten", ""),
        ("Relu_3", ""),
    ],
)
def test_scopes(name, path):
    assert scope_path(name) == path


def test_module_of_a_deduplicated_weight_is_the_scope():
    b = Builder()
    b.input("x", ["n", 4])
    b.const("ln1.weight_dup_1", np.ones(4, np.float32))
    b.add("LayerNormalization", ["x", "ln1.weight_dup_1"], "y", name="/ln2/LayerNormalization")
    assert import_onnx(b.model("y")).nodes[-1].module == "ln2"


def test_module_from_dynamo_metadata():
    m = relu_net()
    entry = m.graph.node[0].metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", "['', 'block', 'block.act', 'relu_1']"
    assert import_onnx(m).nodes[0].module == "block.act"


def test_onnx_missing_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"qgemm\[onnx\]"):
        import_onnx(b"")
