"""ONNX Runtime runs what binq writes: single matrices, and graphs whose matrices were packed."""

import json

import numpy as np
import pytest

import binq
from binq import cli

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FORMATS = [
    ("int4", {}),
    ("int4", {"group_size": 32, "symmetric": False}),
    ("int4", {"group_size": None}),
    ("int8", {}),
    ("int8", {"group_size": 32, "symmetric": False}),
    ("ternary", {"group_size": 64}),
    ("binary", {"group_size": 256}),
    ("int2", {}),
    ("int2", {"group_size": 32, "symmetric": False, "zero": "code"}),
    ("int3", {"group_size": 32, "symmetric": False, "zero": "code"}),
]


def session(model):
    data = model if isinstance(model, str) else model.SerializeToString()
    return ort.InferenceSession(data, providers=["CPUExecutionProvider"])


def weights(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("format", "settings"), FORMATS, ids=str)
def test_single_matrices(tmp_path, format, settings):
    tensors = {
        f"layers.{number}.up_proj.weight": binq.quantize(weights(shape, number), format, **settings)
        for number, shape in enumerate([(24, 256), (40, 100)])
    }
    binq.save_file({**tensors, "norm": np.ones(3, np.float32)}, tmp_path / "m.safetensors")
    out = tmp_path / "m.onnx"
    report = binq.export_checkpoint(tmp_path / "m.safetensors", out, to="onnx")
    assert "1 tensors that are not packed were left out" in " ".join(report.notes)
    onnx.checker.check_model(onnx.load(out))
    runner = session(str(out))
    for name, q in tensors.items():
        x = np.eye(q.shape[1], dtype=np.float32)
        (y,) = runner.run([f"{name}.y"], {f"{name}.x": x})
        assert np.array_equal(y, q.dequantize().T)  # bit for bit


def graph_of(nodes, inits, inputs, outputs, dtype=TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, dtype, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, dtype, s) for n, s in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in inits.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def mlp(dtype=np.float32):
    """MatMul, Gemm with and without transB, a shared matrix, one that is gathered from too."""
    inits = {
        "up": weights((64, 96), 1).astype(dtype),
        "mid": weights((96, 96), 2).astype(dtype),
        "down": weights((40, 96), 3).astype(dtype),
        "bias": weights((40,), 4).astype(dtype),
        "scale": np.array(0.1, dtype),
        "rows": np.array([1, 2, 0]),
    }
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "up"], ["a"], name="first"),
        node("Tanh", ["a"], ["b"]),
        node("MatMul", ["b", "mid"], ["c"], name="second"),
        node("MatMul", ["c", "mid"], ["d"], name="third"),
        node("Mul", ["d", "scale"], ["e"]),
        node("Gemm", ["e", "down", "bias"], ["f"], name="last", transB=1),
        node("Gather", ["mid", "rows"], ["g"], axis=0),
        node("MatMul", ["a", "b_t"], ["h"]),
        node("Transpose", ["b"], ["b_t"], perm=[1, 0]),
    ]
    nodes = [*nodes[:7], nodes[8], nodes[7]]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return graph_of(
        nodes, inits, {"x": ["n", 64]}, {"f": ["n", 40], "g": [3, 96], "h": ["n", "n"]}, kind
    )


def dense(model, format, **settings):
    """Returns the same graph with weights as binq has them, in floats."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 2:
            inputs_first = tensor.name != "down"
            w = values.T if inputs_first else values
            w = binq.quantize(w, format, **settings).dequantize().astype(values.dtype)
            made = w.T if inputs_first else w
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(made), tensor.name))
    return copy


def kinds(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("format", "settings"), FORMATS, ids=str)
def test_a_graph(tmp_path, format, settings, dtype):
    source = mlp(dtype)
    onnx.save(source, tmp_path / "m.onnx")
    given = {name: value for name, value in settings.items() if name != "zero"}
    report = binq.quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", format, **given)
    packed = onnx.load(tmp_path / "q.onnx")
    onnx.checker.check_model(packed)
    assert kinds(packed).count("MatMulNBits") == 4
    assert kinds(packed).count("MatMul") == 1
    assert "1 products were left" in " ".join(report.notes)
    assert [t.name for t in report.tensors] == ["up", "mid", "down"]
    names = {tensor.name for tensor in packed.graph.initializer}
    assert "mid" in names  # which Gather reads
    assert not {"up", "down"} & names
    x = weights((5, 64), 9).astype(dtype)
    found = session(str(tmp_path / "q.onnx")).run(None, {"x": x})
    expected = session(dense(source, format, **settings)).run(None, {"x": x})
    bound = 2e-5 if dtype == np.float32 else 2e-2
    for name, one, other in zip("fgh", found, expected, strict=True):
        if name == "g":
            assert np.array_equal(
                one, numpy_helper.to_array(source.graph.initializer[1])[[1, 2, 0]]
            )
        else:
            assert np.abs(one - other).max() <= bound * np.abs(other).max()


def test_rules_and_options(tmp_path):
    onnx.save(mlp(), tmp_path / "m.onnx")
    rules = ["mid=ternary:g64", "last=keep"]
    report = binq.quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", rules=rules)
    assert {t.name: t.format for t in report.tensors} == {"up": "int4 g64", "mid": "ternary g64"}
    assert "a rule keeps them" in " ".join(report.notes)
    arguments = ["export", str(tmp_path / "m.onnx"), str(tmp_path / "r.onnx"), "--to", "onnx"]
    options = ["--group-size", "32", "--asymmetric", "--accuracy-level", "4"]
    assert cli.main([*arguments, *options]) == 0
    nodes = [n for n in onnx.load(tmp_path / "r.onnx").graph.node if n.op_type == "MatMulNBits"]
    for node in nodes:
        found = {a.name: a.i for a in node.attribute}
        assert (found["block_size"], found["accuracy_level"], len(node.input)) == (32, 4, 4)
    assert cli.main(arguments) == 1  # it exists
    for wrong in (["--to", "gptq"], ["--to", "onnx", "--format", "int4"]):
        source = "m.onnx" if "gptq" in wrong else "folder"
        with pytest.raises(SystemExit) as ended:
            cli.main(["export", str(tmp_path / source), str(tmp_path / "s.onnx"), *wrong])
        assert ended.value.code == 2


def test_branches_constants_and_exchanged_axes(tmp_path):
    node, info = helper.make_node, helper.make_tensor_value_info
    inner = weights((64, 32), 1)
    branch = helper.make_graph(
        [node("MatMul", ["x", "inner"], ["then_y"])],
        "then",
        [],
        [info("then_y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(inner, "inner")],
    )
    other = helper.make_graph(
        [
            node("Transpose", ["outer"], ["turned"]),
            node("MatMul", ["x", "turned"], ["else_y"]),
        ],
        "else",
        [],
        [info("else_y", TensorProto.FLOAT, None)],
    )
    constant = weights((32, 48), 3)
    nodes = [
        node("If", ["which"], ["a"], then_branch=branch, else_branch=other),
        node("Constant", [], ["k"], value=numpy_helper.from_array(constant)),
        node("MatMul", ["a", "k"], ["y"]),
    ]
    outer = weights((32, 64), 2)
    model = graph_of(nodes, {"outer": outer}, {"x": ["n", 64]}, {"y": ["n", 48]})
    model.graph.input.append(info("which", TensorProto.BOOL, []))
    onnx.save(model, tmp_path / "m.onnx")
    report = binq.quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", group_size=32)
    assert {t.name: t.shape for t in report.tensors} == {
        "inner": (32, 64),
        "outer": (32, 64),
        "k": (48, 32),
    }
    packed = onnx.load(tmp_path / "q.onnx")
    assert kinds(packed) == ["If", "MatMulNBits"]
    then = next(a.g for a in packed.graph.node[0].attribute if a.name == "then_branch")
    assert [n.op_type for n in then.node] == ["MatMulNBits"]
    runner = session(str(tmp_path / "q.onnx"))
    x = weights((3, 64), 5)

    def rounded(w):
        return binq.quantize(w, "int4", group_size=32).dequantize()

    for which, w in ((True, rounded(inner.T)), (False, rounded(outer))):
        (y,) = runner.run(None, {"x": x, "which": np.array(which)})
        expected = x @ w.T @ rounded(constant.T).T
        assert np.abs(y - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("inside", [True, False])
def test_data_beside_the_model(tmp_path, monkeypatch, inside):
    source = mlp()
    (tmp_path / "src").mkdir()
    path = tmp_path / "src" / "m.onnx"
    # It takes the data out of the model that it saves.
    onnx.save(mlp(), path, save_as_external_data=not inside, size_threshold=0, location="d.bin")
    if inside:
        monkeypatch.setattr("binq.export.onnx_graph.INLINE_BYTES", 0)
        monkeypatch.setattr("binq.export.onnx_file.INLINE_BYTES", 0)
    out = tmp_path / "q.onnx"
    binq.quantize_onnx(path, out, group_size=32)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["q.onnx", "q.onnx.data", "src"]
    onnx.checker.check_model(str(out))
    x = weights((5, 64), 9)
    found = session(str(out)).run(["f"], {"x": x})[0]
    expected = session(dense(source, "int4", group_size=32)).run(["f"], {"x": x})[0]
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
    with pytest.raises(FileExistsError):
        binq.quantize_onnx(path, out)
    binq.quantize_onnx(path, out, overwrite=True)
    if not inside:
        (tmp_path / "src" / "d.bin").write_bytes(b"short")
        with pytest.raises(binq.FormatError, match="up: "):
            binq.quantize_onnx(path, tmp_path / "other.onnx")
        assert not list(tmp_path.glob("other*"))


def test_matrices_with_data_beside_them(tmp_path, monkeypatch):
    monkeypatch.setattr("binq.export.onnx_file.INLINE_BYTES", 0)
    q = binq.quantize(weights((64, 256)), "int4")
    binq.save_file({"a.weight": q}, tmp_path / "m.safetensors")
    binq.export_checkpoint(tmp_path / "m.safetensors", tmp_path / "m.onnx", to="onnx")
    assert (tmp_path / "m.onnx.data").stat().st_size > 8000
    x = np.eye(256, dtype=np.float32)
    (y,) = session(str(tmp_path / "m.onnx")).run(None, {"a.weight.x": x})
    assert np.array_equal(y, q.dequantize().T)


def test_what_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model at all")
    with pytest.raises(binq.FormatError, match=r"m\.onnx: not an ONNX model"):
        binq.quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx")
    bad = mlp()
    values = numpy_helper.to_array(bad.graph.initializer[0]).copy()
    values[3, 2] = np.nan
    bad.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "up"))
    onnx.save(bad, tmp_path / "m.onnx")
    with pytest.raises(binq.NonFiniteError, match="up: "):
        binq.quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx")
    with pytest.raises(ValueError, match="dst must not be the source"):
        binq.quantize_onnx(tmp_path / "m.onnx", tmp_path / "m.onnx", overwrite=True)
    with pytest.raises(binq.UnsupportedFormatError, match="an offset a group"):
        binq.quantize_onnx(tmp_path / "m.onnx", tmp_path / "q.onnx", "binary", symmetric=False)
    node = helper.make_node("Relu", ["x"], ["y"])
    onnx.save(graph_of([node], {}, {"x": ["n"]}, {"y": ["n"]}), tmp_path / "n.onnx")
    with pytest.raises(binq.UnsupportedFormatError, match="no MatMul and no Gemm"):
        binq.quantize_onnx(tmp_path / "n.onnx", tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_the_report_is_json(tmp_path, capsys):
    onnx.save(mlp(), tmp_path / "m.onnx")
    words = ["export", str(tmp_path / "m.onnx"), str(tmp_path / "q.onnx"), "--to", "onnx", "--json"]
    assert cli.main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["tensors"][0]["sqnr_db"] > 15
