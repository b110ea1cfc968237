"""verify and inspect: they see what is wrong, and name it."""

import json

import numpy as np
import pytest
from checkpoints.folders import one_file
from safetensors import safe_open
from safetensors.numpy import save_file

import binq
from binq.convert.verify import inspect, inspect_text, verify
from binq.files.metadata import Description, dump

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def file(tmp_path):
    """A packed matrix of 40 rows and 100 columns, so that both have padding, and a plain array."""
    path = tmp_path / "m.safetensors"
    w = np.random.default_rng(1).standard_normal((2, 40, 100), dtype=np.float32)
    tensors = {NAME: binq.quantize(w, "ternary", group_size=32), "norm": np.ones(3, np.float32)}
    binq.save_file(tensors, path)
    return path


def rewrite(path, change):
    """Writes the file again with changed arrays and without hashes, which would tell at once."""
    with safe_open(path, "numpy") as opened:
        arrays = {name: opened.get_tensor(name).copy() for name in opened.keys()}  # noqa: SIM118
    q = binq.load_file(path)[NAME]
    change(arrays)
    save_file(arrays, path, {"binq": dump({NAME: Description.of(q)})})


def test_a_good_file_has_no_problems(file):
    assert list(verify(file)) == []
    rewrite(file, lambda arrays: None)
    assert list(verify(file)) == []


def test_inspect_lists_packed_and_plain(file):
    entries = inspect(file)
    assert [(e.name, e.format, e.shape) for e in entries] == [
        (NAME, "ternary g32", (2, 40, 100)),
        ("norm", "F32", (3,)),
    ]
    assert "2 tensors" in inspect_text(entries)
    assert inspect_text([]) == "0 tensors, 0 B"


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_scales_that_are_not_finite(file, value):
    rewrite(file, lambda a: a[f"{NAME}.scales"].__setitem__((0, 0, 0, 0), value))
    assert any("a scale is inf or NaN" in problem for problem in verify(file))


def test_padding_of_scales(file):
    rewrite(file, lambda a: a[f"{NAME}.scales"].__setitem__((1, 1, 0, 31), 1))
    assert [p.partition(": ")[2] for p in verify(file)] == [
        f"tensor {NAME!r}: a scale in the padding is not 0"
    ]


@pytest.mark.parametrize("at", [(0, 1, 0, 0, 31), (1, 0, -1, 1, 0), (0, 0, 0, 1, 5)])
def test_codes_and_padding_that_binq_never_writes(file, at):
    def change(arrays):
        planes = arrays[f"{NAME}.packed"]
        planes[at] = 0xFF
        if at[0] == 0 and at[1] == 0:
            planes[0, 0, 0, 0, 5] = 0  # upper bit without the lower one: no code at all

    rewrite(file, change)
    assert any("not as binq writes them" in problem for problem in verify(file))


def test_hashes_of_other_tensors(file):
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    content = json.loads(header["__metadata__"]["binq"])
    content["sha256"]["gone"] = content["sha256"].pop("norm")
    header["__metadata__"]["binq"] = json.dumps(content, separators=(",", ":"))
    text = json.dumps(header, separators=(",", ":")).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    problems = list(verify(file))
    assert any("'norm': no sha256, though others have one" in p for p in problems)
    assert any("'gone': missing, though it has a sha256" in p for p in problems)


def test_a_broken_file_is_a_problem_and_not_an_error(file):
    file.write_bytes(file.read_bytes()[:-1])
    assert len(list(verify(file))) == 1


def folder(path, w, norm, extra=True):
    tensors = {NAME: w, "model.norm.weight": norm}
    if extra:
        tensors["model.layers.1.mlp.up_proj.weight"] = w
    return one_file(path, tensors)


def test_against_another_source(tmp_path):
    w = np.random.default_rng(1).standard_normal((40, 100), dtype=np.float32)
    norm = np.ones(100, np.float32)
    source = folder(tmp_path / "source", w, norm)
    binq.quantize_checkpoint(source, tmp_path / "t")
    assert list(verify(tmp_path / "t", source)) == []
    less = folder(tmp_path / "less", w, norm, extra=False)
    assert list(verify(tmp_path / "t", less)) == [
        f"model.layers.1.mlp.up_proj.weight: not in {less}"
    ]
    binq.quantize_checkpoint(less, tmp_path / "t2")
    assert any(f"in {source}, missing here" in p for p in verify(tmp_path / "t2", source))
    longer = folder(tmp_path / "longer", np.vstack([w, w]), norm + 1)
    problems = list(verify(tmp_path / "t", longer))
    assert any("shape (40, 100), in the source (80, 100)" in p for p in problems)
    assert any(p == f"model.norm.weight: differs from {longer}" for p in problems)


def test_kept_tensors_must_have_the_types_and_shapes_of_the_source(tmp_path):
    """The same bytes: 64 numbers of one type in one row, or of another type in two."""
    w = np.random.default_rng(1).standard_normal((40, 64), dtype=np.float32)
    source = folder(tmp_path / "source", w, np.ones(64, np.float16))
    binq.quantize_checkpoint(source, tmp_path / "t")
    bits = np.ones(64, np.float16).view(np.int16)
    other = folder(tmp_path / "other", w, bits)
    assert list(verify(tmp_path / "t", other)) == [
        f"model.norm.weight: float16 (64,), in {other} int16 (64,)"
    ]
    other = folder(tmp_path / "another", w, np.ones((2, 32), np.float16))
    assert list(verify(tmp_path / "t", other)) == [
        f"model.norm.weight: float16 (64,), in {other} float16 (2, 32)"
    ]


def test_there_must_be_no_tensor_that_the_source_has_not(tmp_path):
    w = np.random.default_rng(1).standard_normal((40, 64), dtype=np.float32)
    source = folder(tmp_path / "source", w, np.ones(64, np.float32))
    path = tmp_path / "packed.safetensors"
    tensors = {name: binq.quantize(w, "int4") for name in (NAME, NAME.replace("0", "1"))}
    norm = {"model.norm.weight": np.ones(64, np.float32)}
    binq.save_file({**tensors, **norm, "stowaway": np.ones(3)}, path)
    assert list(verify(path, source)) == [f"stowaway: not in {source}"]


def test_the_index_must_place_every_tensor(tmp_path):
    w = np.random.default_rng(1).standard_normal((40, 100), dtype=np.float32)
    source = folder(tmp_path / "source", w, np.ones(100, np.float32))
    binq.quantize_checkpoint(source, tmp_path / "t")
    index = tmp_path / "t" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    place = content["weight_map"].pop("model.norm.weight")
    content["weight_map"]["ghost"] = place
    index.write_text(json.dumps(content))
    assert [p.partition(": ")[2] for p in verify(tmp_path / "t", source)] == [
        "tensor 'model.norm.weight': model.safetensors.index.json does not place it there",
        "tensor 'ghost': missing, though model.safetensors.index.json places it there",
    ]


def test_a_gguf_file_is_refused_by_name(tmp_path):
    path = tmp_path / "m.gguf"
    with pytest.raises(binq.UnsupportedFormatError, match=r"m\.gguf: a GGUF file"):
        inspect(path)
