"""Storage schemes of others: registered, found by entry points, read and written."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

import binq
from binq import storage
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

NAME = "model.layers.0.mlp.up_proj.weight"


@dataclass(frozen=True)
class ThreeLevels(storage.CodedStorage):
    """Ternary weights, a signed byte each, and one scale a row."""

    scheme = "three-levels"
    name: str
    rows: int
    columns: int

    shape = property(lambda self: (self.rows, self.columns))
    dtype = property(lambda self: "I8")
    stored = property(lambda self: (self.name, self.name + ".row_scales"))
    levels = property(lambda self: (-1, 1))
    group = property(lambda self: None)

    def read_codes(self, source, matrix, start, stop):
        return source.read_span(self.name, start, stop, (self.columns,))

    def read_groups(self, source, matrix, start, stop):
        return source.read_span(self.name + ".row_scales", start, stop, (1,)), None


class ThreeLevelsScheme(storage.Scheme):
    name = "three-levels"

    def collect(self, source, settings, names):
        found = {}
        for name in sorted(names):
            if name + ".row_scales" in names:
                info = source.info(name)
                if info.dtype != "I8":
                    raise FormatError(f"{source.path}: {name!r} is {info.dtype}, expected I8")
                found[name] = ThreeLevels(name, *info.shape)
        return found

    def write(self, name, weights):
        if weights.format != "ternary" or weights.group_size is not None:
            raise UnsupportedFormatError(f"{name}: not ternary with one scale a row")
        values = weights.dequantize()
        scales = np.abs(values).max(axis=1, keepdims=True)
        return {name: weights.codes(), name + ".row_scales": scales}

    def settings(self, weights):
        return {"quant_method": self.name}


@pytest.fixture
def three_levels():
    scheme = ThreeLevelsScheme()
    storage.register(scheme)
    yield scheme
    storage.unregister("three-levels")


def written(folder, scheme, tensors):
    """Writes a checkpoint of packed weights by a scheme."""
    folder.mkdir(exist_ok=True)
    stored = {}
    for name, weights in tensors.items():
        stored |= scheme.write(name, weights)
    binq.save_file(stored, folder / "model.safetensors")
    config = {"model_type": "qwen3", "quantization_config": scheme.settings(tensors)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def read_back(folder):
    """Returns what the reader makes of each weight: values, and the packed form or None."""
    found = {}
    with Checkpoint(folder) as source:
        for tensor in logical_tensors(source):
            exact = tensor.exact_format(source)
            matrices = [
                tensor.exact_rows(source, exact, matrix, 0, tensor.shape[-2])
                for matrix in range(tensor.matrices if exact else 0)
            ]
            found[tensor.name] = tensor.read(source), matrices
    return found


def test_a_scheme_of_another_is_read_and_written(tmp_path, three_levels):
    w = np.random.default_rng(0).standard_normal((40, 96)).astype(np.float32)
    q = binq.quantize(w, "ternary", group_size=None)
    folder = written(tmp_path / "source", three_levels, {NAME: q})
    values, (packed,) = read_back(folder)[NAME]
    np.testing.assert_array_equal(values, q.dequantize())
    assert packed == q
    report = binq.quantize_checkpoint(folder, tmp_path / "out", "int4")
    assert report.tensors[0].format == "ternary row exact"


def test_a_scheme_that_only_reads_says_so(three_levels):
    q = binq.quantize(np.eye(32, dtype=np.float32), "int4")
    with pytest.raises(UnsupportedFormatError, match="'fp8' cannot write"):
        storage.get("fp8").write(NAME, q)
    with pytest.raises(UnsupportedFormatError, match="'fp8' cannot write"):
        storage.get("fp8").settings({NAME: q})
    with pytest.raises(UnsupportedFormatError, match="not ternary"):
        three_levels.write(NAME, q)


def test_names_are_taken_once(three_levels):
    with pytest.raises(ValueError, match="'three-levels' is registered already"):
        storage.register(ThreeLevelsScheme())
    other = ThreeLevelsScheme()
    storage.register(other, replace=True)
    assert storage.get("three-levels") is other
    with pytest.raises(TypeError, match=r"an instance of binq\.storage\.Scheme, got class"):
        storage.register(ThreeLevelsScheme)

    class Nameless(ThreeLevelsScheme):
        name = ""

    with pytest.raises(TypeError, match="name of a scheme must be a string"):
        storage.register(Nameless())
    with pytest.raises(ValueError, match="'four-levels' is not registered"):
        storage.unregister("four-levels")
    with pytest.raises(UnsupportedFormatError, match="method 'four-levels'"):
        storage.get("four-levels")
    with pytest.raises(UnsupportedFormatError, match="method 4"):
        storage.get(4)


PACKAGE = """
from binq import storage

class Others(storage.Scheme):
    name = "others"

    def collect(self, source, settings, names):
        assert settings["quant_method"] == "others"
        return {}

instance = Others()
nothing = 7
"""


def installed(folder, monkeypatch, found):
    """Puts a package with an entry point where Python finds it."""
    metadata = folder / "others_package-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: others-package\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(f"[binq.storage]\nothers = others_package:{found}\n")
    (folder / "others_package.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("found", ["Others", "instance"])
def test_entry_points_are_loaded_when_a_checkpoint_asks(tmp_path, monkeypatch, found):
    installed(tmp_path, monkeypatch, found)
    source = tmp_path / "source"
    source.mkdir()
    binq.save_file({NAME: np.eye(4, dtype=np.float32)}, source / "model.safetensors")
    config = {"model_type": "qwen3", "quantization_config": {"quant_method": "others"}}
    (source / "config.json").write_text(json.dumps(config))
    try:
        values, _ = read_back(source)[NAME]
        np.testing.assert_array_equal(values, np.eye(4))
        assert type(storage.get("others")).__name__ == "Others"
    finally:
        storage.unregister("others")


def test_entry_points_of_something_else_are_refused(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, "nothing")
    with pytest.raises(TypeError, match="must be a scheme named 'others', got 7"):
        storage.get("others")


FORMATS = [
    ("binary", {}), ("ternary", {}), ("int4", {}), ("int4", {"symmetric": False, "zero": "code"}),
]  # fmt: skip


@pytest.mark.parametrize("shape", [(40, 256), (3, 33, 256), (1, 256)])
@pytest.mark.parametrize("group", [32, 128, 256, None])
@pytest.mark.parametrize(("format", "more"), FORMATS)
def test_compressed_tensors_are_written_without_loss(tmp_path, format, more, group, shape):
    w = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    q = binq.quantize(w, format, group_size=group, **more)
    scheme = storage.get("compressed-tensors")
    parts = scheme.write(NAME, q)
    assert parts[NAME + "_scale"].dtype == np.float32  # the library multiplies in this type
    folder = written(tmp_path, scheme, {NAME: q})
    values, packed = read_back(folder)[NAME]
    np.testing.assert_array_equal(values, q.dequantize())
    for matrix, made in enumerate(packed):
        one = q if len(shape) == 2 else q[matrix]
        np.testing.assert_array_equal(made.dequantize(), one.dequantize())
        if made.group_size == one.group_size and made.symmetric == one.symmetric:
            assert made == one


def test_compressed_tensors_have_the_words_that_the_format_says(tmp_path):
    """The stored tensors against the formula, without the reader."""
    w = np.random.default_rng(5).standard_normal((40, 64)).astype(np.float32)
    q = binq.quantize(w, "int4", group_size=32, symmetric=False, zero="code")
    parts = storage.get("compressed-tensors").write(NAME, q)
    words = parts[NAME + "_packed"].view(np.uint32)
    zeros = parts[NAME + "_zero_point"].view(np.uint32)
    scales = parts[NAME + "_scale"].astype(np.float32)
    assert (words.shape, zeros.shape, scales.shape) == ((40, 8), (5, 2), (40, 2))
    assert parts[NAME + "_shape"].tolist() == [40, 64]
    values = np.empty((40, 64), np.float32)
    for row in range(40):
        for column in range(64):
            code = int(words[row, column // 8]) >> 4 * (column % 8) & 15
            zero = int(zeros[row // 8, column // 32]) >> 4 * (row % 8) & 15
            signed, point = code - 8, zero - 8
            values[row, column] = np.float32(signed - point) * scales[row, column // 32]
    np.testing.assert_array_equal(values, q.dequantize())


def test_several_packings_side_by_side(tmp_path):
    rng = np.random.default_rng(7)
    names = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(3)]
    tensors = {
        name: random_weights(rng, *kind)
        for name, kind in zip(names, [("int4", 32), ("int4", None), ("binary", 64)], strict=True)
    }
    folder = written(tmp_path, storage.get("compressed-tensors"), tensors)
    for name, (values, _) in read_back(folder).items():
        np.testing.assert_array_equal(values, tensors[name].dequantize())


def random_weights(rng, format, group):
    return binq.quantize(
        rng.standard_normal((32, 128)).astype(np.float32), format, group_size=group
    )


@pytest.mark.parametrize(
    ("format", "shape", "more", "match"),
    [
        ("int4", (8, 200), {"group_size": 128}, "200 inputs in groups of 128, the last ragged"),
        ("binary", (8, 128), {"symmetric": False}, "an offset a group"),
    ],
)
def test_what_compressed_tensors_cannot_hold_is_refused(format, shape, more, match):
    w = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    q = binq.quantize(w, format, **more)
    for write in (lambda s: s.write(NAME, q), lambda s: s.settings({NAME: q})):
        with pytest.raises(UnsupportedFormatError, match=match):
            write(storage.get("compressed-tensors"))
    with pytest.raises(ValueError, match="must end in"):
        storage.get("compressed-tensors").write("weights", q)
