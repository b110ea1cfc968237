"""verify and inspect: they see what is wrong, and name it."""

import json
import os

import numpy as np
import pytest
from checkpoints.fixtures import Written, gguf_file, gguf_tensor
from checkpoints.folders import one_file
from safetensors import safe_open
from safetensors.numpy import save_file
from strategies import random_quantized

import binq
from binq.convert.inspect import inspect, inspect_text
from binq.convert.verify import verify
from binq.files.metadata import Description, dump
from binq.files.writer import write_arrays

NAME = "model.layers.0.mlp.up_proj.weight"
EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"


@pytest.fixture
def file(tmp_path):
    """A packed matrix of 40 rows and 100 columns, so that both have padding, and a plain array."""
    path = tmp_path / "m.safetensors"
    w = np.random.default_rng(1).standard_normal((2, 40, 100), dtype=np.float32)
    tensors = {NAME: binq.quantize(w, "ternary", group_size=32), "norm": np.ones(3, np.float32)}
    binq.save_file(tensors, path)
    return path


def rewrite(path, change):
    """Writes the file again with changed arrays and the hashes of these, which tell nothing."""
    with safe_open(path, "numpy") as opened:
        arrays = {name: opened.get_tensor(name).copy() for name in opened.keys()}  # noqa: SIM118
    q = binq.load_file(path)[NAME]
    change(arrays)
    write_arrays(arrays, path, {"binq": dump({NAME: Description.of(q)})})


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
    assert "0 tensors, 0 B" in inspect_text([])


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
    assert any(p.endswith("its header is not the one that was written") for p in problems)
    assert any(p.endswith("tensor 'norm': no sha256") for p in problems)
    assert any("'gone': missing, though it has a sha256" in p for p in problems)


def header_of(data):
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_no_bit_of_a_file_changes_unseen(tmp_path):
    """Of the header every one, and some of the data: what loads is the same, or verify tells."""
    path = tmp_path / "m.safetensors"
    rng = np.random.default_rng(0)
    tensors = {
        "up": random_quantized(rng, "binary", (33, 130), symmetric=False),
        "norm": np.arange(7, dtype=np.float16),
    }
    binq.save_file(tensors, path, {"note": "é"})
    data = path.read_bytes()
    text = 8 + len(json.dumps(header_of(data)[0], separators=(",", ":")))
    places = [*range(text), *rng.integers(text, len(data), 100).tolist()]
    unseen = []
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            if not list(verify(path)) and header_of(flipped)[0] != header_of(data)[0]:
                unseen.append(place)
        except binq.UnsupportedFormatError:  # a newer version, as it seems
            continue
    assert unseen == []


def test_padding_does_not_become_weights(file):
    header, data = header_of(file.read_bytes())
    text = header["__metadata__"]["binq"]
    assert "[2,40,100]" in text
    header["__metadata__"]["binq"] = text.replace("[2,40,100]", "[2,41,101]")
    with_header(file, header, data)
    assert binq.load_file(file)[NAME].shape == (2, 41, 101)
    assert list(verify(file)) == [f"{file}: its header is not the one that was written"]


@pytest.mark.parametrize("key", ["binq", "binq.sha256"])
def test_keys_of_binq_do_not_go_unseen(file, key):
    header, data = header_of(file.read_bytes())
    header["__metadata__"]["bing"] = header["__metadata__"].pop(key)
    with_header(file, header, data)
    (problem,) = verify(file)
    assert ("not a binq file" if key == "binq" else "its header has no sha256") in problem


def test_files_that_binq_did_not_write_are_not_vouched_for(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a": np.arange(10)}, path)
    (problem,) = verify(path)
    assert problem.startswith(f"{path}: not a binq file: it has no sha256")
    q = binq.quantize(np.ones((2, 32)), "int4")
    parts = {"a.packed": q.packed, "a.scales": q.scales}
    save_file(parts, path, {"binq": dump({"a": Description.of(q)})})
    assert [p.partition(": ")[2] for p in verify(path)] == [
        "its header has no sha256, so its names, shapes and types are not certain: an early binq "
        "wrote none; binq.load_file and binq.save_file add it",
        "tensor 'a.scales': no sha256",
        "tensor 'a.packed': no sha256",
    ]


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_offsets_that_are_not_finite(tmp_path, value):
    q = random_quantized(np.random.default_rng(0), "binary", (33, 64), 32, symmetric=False)
    offsets = q.zero_points.copy()
    offsets[1, 0, 0] = value
    q = binq.QuantizedArray("binary", q.shape, 32, False, q.packed, q.scales, offsets)
    binq.save_file({"a": q}, tmp_path / "m.safetensors")
    (problem,) = verify(tmp_path / "m.safetensors")
    assert problem.endswith("tensor 'a': an offset is inf or NaN")


def test_padding_of_zero_points(tmp_path):
    q = binq.quantize(np.ones((33, 64)), "int4", symmetric=False, group_size=32)
    zeros = q.zero_points.copy()
    zeros[1, :, 5:] = 0xFF
    q = binq.QuantizedArray("int4", q.shape, 32, False, q.packed, q.scales, zeros)
    binq.save_file({"a": q}, tmp_path / "m.safetensors")
    (problem,) = verify(tmp_path / "m.safetensors")
    assert problem.endswith("tensor 'a': a zero point in the padding is not 0")


def test_zero_points_that_are_no_codes(tmp_path):
    q = binq.quantize(np.eye(64), "int2", symmetric=False, zero="code", group_size=32)
    zeros = q.zero_points.copy()
    zeros[0, 0, 3] = 0x40
    q = binq.QuantizedArray("int2", q.shape, 32, False, q.packed, q.scales, zeros)
    assert q.group_zero_points()[19, 0] == 4
    binq.save_file({"a": q}, tmp_path / "m.safetensors")
    (problem,) = verify(tmp_path / "m.safetensors")
    assert problem.endswith("tensor 'a': a zero point is no code of 2 bits")


def test_a_part_that_is_missing_is_a_problem_and_the_rest_is_looked_at(tmp_path):
    path = tmp_path / "m.safetensors"
    q = binq.quantize(np.ones((33, 64)), "int4", group_size=32)
    scales = np.full(q.scales.shape, np.nan, np.float16)
    arrays = {"a.packed": q.packed, "b.packed": q.packed, "b.scales": scales}
    write_arrays(arrays, path, {"binq": dump(dict.fromkeys("ab", Description.of(q)))})
    problems = list(verify(path))
    assert any("its part 'a.scales' is missing" in p for p in problems)
    assert any("tensor 'b': a scale is inf or NaN" in p for p in problems)


def test_a_file_that_shrinks_is_a_problem_and_no_crash(file, monkeypatch):
    """Nothing is mapped: a mapped file that shrinks ends the process."""
    monkeypatch.setattr("mmap.mmap", None)
    assert list(verify(file)) == []
    size = file.stat().st_size
    monkeypatch.setattr(
        "binq.convert.verify._check_header", lambda _: os.truncate(file, size - 4000) or ()
    )
    (problem,) = verify(file)
    assert "it was shortened while it was read" in problem


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


def experts(path, stack, down=None):
    """A folder with a stack of experts and one matrix, as Qwen 3's mixtures have them."""
    tensors = {EXPERTS: stack, "model.norm.weight": np.ones(64, np.float32)}
    if down is not None:
        tensors[NAME] = down
    return one_file(path, tensors)


@pytest.mark.parametrize("settings", [
    {"format": "int4"},
    {"format": "int4", "method": "absmax", "symmetric": False, "group_size": 32},
    {"format": "ternary", "method": "absmean"},
    {"format": "binary", "symmetric": False},
])  # fmt: skip
def test_each_matrix_and_each_tile_is_compared(tmp_path, settings):
    """Noise below the signal of the whole tensor once was enough: a seventh could be another's."""
    rng = np.random.default_rng(2)
    stack = rng.standard_normal((7, 70, 64), dtype=np.float32)
    source = experts(tmp_path / "source", stack)
    binq.quantize_checkpoint(source, tmp_path / "t", **settings)
    assert list(verify(tmp_path / "t", source)) == []

    def problems(change, name):
        other = stack.copy()
        change(other)
        return list(verify(tmp_path / "t", experts(tmp_path / name, other)))

    def swap(w):
        w[[2, 5]] = w[[5, 2]]

    found = problems(swap, "swapped")
    assert len(found) == 1
    assert f"{EXPERTS}: not the source's weights: row 0 of matrix 2: SQNR -" in found[0]
    assert "dB, and 139 other places" in found[0]

    def swap_rows(w):
        w[6, :2] = w[6, 1::-1]

    assert any("row 0 of matrix 6" in p for p in problems(swap_rows, "rows"))

    def negate(w):
        w[3, 69] *= -1

    assert any("row 69 of matrix 3" in p for p in problems(negate, "negated"))

    def double(w):
        w[0, 40:50] *= 2

    assert any("row 40 of matrix 0" in p for p in problems(double, "doubled"))


def test_files_of_save_file_are_compared_as_folders_are(tmp_path):
    rng = np.random.default_rng(2)
    w = rng.standard_normal((40, 64), dtype=np.float32)
    source = one_file(tmp_path / "source", {NAME: w})
    for method in ("mse", "absmax"):
        binq.save_file({NAME: binq.quantize(w, "int4", method=method)}, tmp_path / "m.safetensors")
        assert list(verify(tmp_path / "m.safetensors", source)) == []
    binq.save_file({NAME: binq.quantize(w[::-1], "int4")}, tmp_path / "m.safetensors")
    (problem,) = verify(tmp_path / "m.safetensors", source)
    assert "not the source's weights" in problem


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_read_as_zero_are_compared_as_such(tmp_path, value):
    rng = np.random.default_rng(2)
    w = rng.standard_normal((64, 128), dtype=np.float32)
    w[3, 4] = value
    source = one_file(tmp_path / "source", {NAME: w})
    binq.quantize_checkpoint(source, tmp_path / "t", nonfinite="zero")
    assert list(verify(tmp_path / "t", source)) == []
    other = one_file(tmp_path / "other", {NAME: rng.standard_normal((64, 128), dtype=np.float32)})
    binq.quantize_checkpoint(other, tmp_path / "o")
    (problem,) = verify(tmp_path / "o", source)
    assert "not the source's weights" in problem


def test_what_is_low_bit_already_is_compared_exactly(tmp_path):
    """A single code that differs is within the noise of no quantizer."""
    rng = np.random.default_rng(2)
    w = rng.choice(np.float32([-0.5, 0.5]), (64, 128))
    source = one_file(tmp_path / "source", {NAME: w})
    binq.quantize_checkpoint(source, tmp_path / "t", "binary")
    assert list(verify(tmp_path / "t", source)) == []
    w[5, 6] *= -1
    (problem,) = verify(tmp_path / "t", one_file(tmp_path / "other", {NAME: w}))
    assert "rows 0 to 64: SQNR" in problem
    assert "gives inf dB" in problem


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
    index = tmp_path / "t" / "binq.safetensors.index.json"
    content = json.loads(index.read_text())
    place = content["weight_map"].pop("model.norm.weight")
    content["weight_map"]["ghost"] = place
    index.write_text(json.dumps(content))
    assert [p.partition(": ")[2] for p in verify(tmp_path / "t", source)] == [
        "tensor 'model.norm.weight': the index does not place it there",
        "tensor 'ghost': missing, though the index places it there",
    ]


def test_gguf_files_are_shown_and_not_vouched_for(tmp_path):
    path = tmp_path / "m.gguf"
    written = Written(tmp_path)
    tensors = {
        "blk.0.ffn_up.weight": gguf_tensor(written, "up", "Q4_0", (3, 64)),
        "output_norm.weight": (0, (64,), bytes(256)),
    }
    path.write_bytes(gguf_file({"general.architecture": "qwen3", "binq": 3}, tensors))
    for place in (path, tmp_path):
        assert [(e.name, e.file, e.format, e.shape, e.nbytes) for e in inspect(place)] == [
            ("blk.0.ffn_up.weight", "m.gguf", "Q4_0", (3, 64), 108),
            ("output_norm.weight", "m.gguf", "F32", (64,), 256),
        ]
        (problem,) = verify(place)
        assert problem.startswith(f"{path}: not a binq file")


@pytest.mark.parametrize(
    "text", ["{}", '{"version":1,"tensors":3}', '{"version":9,"tensors":{}}', "["]
)
def test_a_description_that_cannot_be_read_is_a_problem(tmp_path, text):
    """Also beside a source: what cannot be read is missing there."""
    w = np.ones((4, 32), np.float32)
    source = one_file(tmp_path / "source", {NAME: w})
    binq.save_file({NAME: binq.quantize(w, "int4")}, tmp_path / "m.safetensors")
    header, data = header_of((tmp_path / "m.safetensors").read_bytes())
    header["__metadata__"]["binq"] = text
    with_header(tmp_path / "m.safetensors", header, data)
    problems = list(verify(tmp_path / "m.safetensors", source))
    assert any(
        "__metadata__['binq']" in p or "is newer than this binq reads" in p for p in problems
    )
    assert any(f"{NAME}: in {source}, missing here" in p for p in problems)
