"""GGUF files: every type exactly, both layouts of Q2_0, and no trust in what a header says."""

import struct

import hypothesis.strategies as st
import numpy as np
import pytest
from checkpoints.fixtures import (
    F16,
    F32,
    GGUF_GROUPS,
    GGUF_TYPES,
    Written,
    floats,
    gguf_file,
    gguf_string,
    gguf_tensor,
    gguf_value,
)
from hypothesis import given, settings

from binq import quantize_checkpoint
from binq.errors import FormatError, UnknownModelWarning, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.files.gguf import OTHER_TYPES, GgufFile
from binq.models import logical_tensors, what_is_unknown

# Of a model whose names of tensors are not known here.
UNKNOWN = {"general.architecture": "starcoder2"}
UP = "blk.0.ffn_up.weight"
EXACT = {"Q1_0": "binary", "TQ1_0": "ternary", "TQ2_0": "ternary", "Q4_0": "int4", "Q2_0": "int2",
         "Q2_0_G128": "int2", "Q8_0": "int8"}  # fmt: skip


def write(folder, data, name="m.gguf"):
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize("kind", sorted(GGUF_GROUPS))
@pytest.mark.parametrize("experts", [False, True])
def test_every_type_of_blocks_is_exact(tmp_path, kind, experts):
    written = Written(tmp_path)
    name = "blk.0.ffn_up_exps.weight" if experts else UP
    shape = (3, 35, 512) if experts else (35, 512)
    tensors = {name: gguf_tensor(written, name, kind, shape)}
    tensors["blk.0.ffn_norm.weight"] = (0, (512,), floats("n", (512,)).tobytes())
    path = write(tmp_path, gguf_file(UNKNOWN, tensors))
    with Checkpoint(path) as source:
        tensor = next(tensor for tensor in logical_tensors(source) if tensor.name == name)
        assert (tensor.shape, tensor.dtype, tensor.quantize) == (shape, kind, True)
        np.testing.assert_array_equal(tensor.read(source), written.values[name])
        np.testing.assert_array_equal(
            tensor.read_rows(source, tensor.matrices - 1, 5, 9),
            written.values[name].reshape(-1, *shape[-2:])[-1, 5:9],
        )
        found = tensor.exact_format(source)
        if kind not in EXACT or GGUF_GROUPS[kind] not in (32, 64, 128, 256):
            assert found is None
            return
        assert (found.packing.format, found.packing.group_size) == (EXACT[kind], GGUF_GROUPS[kind])
        packed = tensor.exact_rows(source, found, 0, 0, 35)
        first = written.values[name].reshape(-1, *shape[-2:])[0]
        np.testing.assert_array_equal(packed.dequantize(), first)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_plain_types_are_copied_and_read(tmp_path, kind):
    values = floats("plain", (6, 40))
    stored = values.astype(F16) if kind == "F16" else values
    raw = stored.tobytes()
    if kind == "BF16":
        high = np.ascontiguousarray(values.view(np.uint16)[:, 1::2])
        raw = high.tobytes()
        stored = (high.astype(np.uint32) << 16).view(F32)
    path = write(tmp_path, gguf_file(UNKNOWN, {UP: (GGUF_TYPES[kind], (6, 40), raw)}))
    with Checkpoint(path) as source:
        (tensor,) = logical_tensors(source)
        assert tensor.copyable
        assert source.info(UP).dtype == kind
        np.testing.assert_array_equal(tensor.read(source), stored.astype(F32))
        np.testing.assert_array_equal(tensor.read_rows(source, 0, 2, 4), stored[2:4].astype(F32))


@pytest.mark.parametrize(
    ("shape", "scales"), [((4, 64), (1,)), ((3, 4, 64), (3,)), ((3, 4, 64), (1,))]
)
def test_nvfp4_is_multiplied_by_the_scale_beside_it(tmp_path, shape, scales):
    blocks = np.random.default_rng(1).integers(0, 127, (np.prod(shape) // 64, 36), np.uint8)
    factors = np.arange(2, 2 + scales[0], dtype=F32)
    tensors = {UP: (40, shape, blocks.tobytes())}
    with Checkpoint(write(tmp_path, gguf_file(UNKNOWN, tensors))) as source:
        plain = logical_tensors(source)[0].read(source)
    scale = UP.replace("weight", "scale")
    tensors[scale] = (0, scales, factors.tobytes())
    with Checkpoint(write(tmp_path, gguf_file(UNKNOWN, tensors), "n.gguf")) as source:
        (tensor,) = logical_tensors(source)
        assert tensor.stored == (UP, scale)
        expected = plain.reshape(-1, *shape[-2:]) * factors[:, None, None]
        np.testing.assert_array_equal(tensor.read(source), expected.reshape(shape))
    tensors[scale] = (0, (2,), np.ones(2, F32).tobytes())
    path = write(tmp_path, gguf_file(UNKNOWN, tensors), "o.gguf")
    with Checkpoint(path) as source, pytest.raises(FormatError, match="one F32 for each matrix"):
        logical_tensors(source)


@pytest.mark.parametrize("kind", ["Q2_0", "Q2_0_G128"])
def test_layouts_of_q2_0_are_told_apart_by_their_size(tmp_path, kind):
    written = Written(tmp_path)
    names = [UP, "blk.0.ffn_gate.weight"]
    tensors = {name: gguf_tensor(written, name, kind, (9, 256)) for name in names}
    with Checkpoint(write(tmp_path, gguf_file(UNKNOWN, tensors))) as source:
        for tensor in logical_tensors(source):
            assert tensor.dtype == kind
            np.testing.assert_array_equal(tensor.read(source), written.values[tensor.name])


def test_q2_0_of_an_unclear_size_is_refused(tmp_path):
    # 34 and 36 bytes take the same aligned room.
    path = write(tmp_path, gguf_file(UNKNOWN, {UP: (42, (1, 128), b"\0" * 34)}))
    with pytest.raises(UnsupportedFormatError, match="do not tell blocks of 64 from 128"):
        GgufFile(path)


@pytest.mark.parametrize("kind", [*OTHER_TYPES, 4, 99, 2**32 - 1])
def test_types_that_are_not_read_are_refused_by_name(tmp_path, kind):
    path = write(tmp_path, gguf_file(UNKNOWN, {UP: (kind, (4, 256), b"\0" * 4096)}))
    name = OTHER_TYPES.get(kind, "unknown").split(" ")[0]
    with pytest.raises(UnsupportedFormatError, match=f"{UP}.* type {kind}, {name}"):
        Checkpoint(path)


def test_architecture_that_was_not_checked_has_its_matrices_quantized(tmp_path):
    shapes = {
        "token_embd.weight": (64, 32), "blk.0.ssm_in.weight": (64, 32), "output.weight": (64, 32),
        "blk.0.ssm_x.weight": (36, 32), "blk.0.attn_norm_2.weight": (32,),
        "blk.0.ssm_conv1d.weight": (32, 4), "position_embd.weight": (16, 32),
    }  # fmt: skip
    tensors = {name: (0, s, floats(name, s).tobytes()) for name, s in shapes.items()}
    path = write(tmp_path, gguf_file({"general.architecture": "mamba"}, tensors))
    with Checkpoint(path) as source:
        quantized = [tensor.name for tensor in logical_tensors(source) if tensor.quantize]
        assert quantized == ["blk.0.ssm_in.weight"]
        assert "'mamba'" in what_is_unknown(source)
    with pytest.warns(UnknownModelWarning, match="'mamba'"):
        report = quantize_checkpoint(path, tmp_path / "t")
    assert "architecture 'mamba'" in str(report)


@pytest.mark.parametrize(
    "key",
    ["prism.hadamard.version", "general.hadamard", "quarot.rotation.seed", "x.rotated", "walsh.n"],
)
def test_rotated_weights_are_refused_by_their_metadata(tmp_path, key):
    written = Written(tmp_path)
    tensors = {UP: gguf_tensor(written, UP, "Q2_0", (8, 256))}
    with (
        Checkpoint(write(tmp_path, gguf_file(UNKNOWN | {key: 1}, tensors))) as source,
        pytest.raises(UnsupportedFormatError, match=f"'{key}'.*rotated basis"),
    ):
        logical_tensors(source)
    # What says that nothing is rotated refuses nothing; nor do rotary embeddings.
    metadata = UNKNOWN | {key: False, "qwen3.rope.rotary_dim": 64}
    with Checkpoint(write(tmp_path, gguf_file(metadata, tensors), "n.gguf")) as source:
        assert logical_tensors(source)


def test_metadata_of_every_kind_is_read(tmp_path):
    metadata = {"a": 7, "b": "text", "c": 0.5, "d": True, "e": [1, 2], "f": ["x", "y"],
                "tokens": ["t"] * 2000, "scores": [1.0] * 2000}  # fmt: skip
    with Checkpoint(write(tmp_path, gguf_file(metadata, {}))) as source:
        kept = {key: value for key, value in metadata.items() if key not in ("tokens", "scores")}
        assert source.config == {**kept, "tokens": None, "scores": None}


@pytest.mark.parametrize("version", [2, 3])
def test_versions_two_and_three_are_read(tmp_path, version):
    with Checkpoint(write(tmp_path, gguf_file(UNKNOWN, {}, version))) as source:
        assert source.config == UNKNOWN


def header(tensors=0, keys=0, body=b"", version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + body


def entry(name="t", shape=(32,), kind=0, offset=0):
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return (
        gguf_string(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)
    )


PADDING = b"\0" * 512
KEY = gguf_string("k")
MALFORMED = {
    "empty": (b"", "ends within magic"),
    "another file": (b"PK\3\4" + PADDING, "does not begin with 'GGUF'"),
    "cut in the header": (header()[:20], "ends within"),
    "2**63 tensors": (header(2**63), "a count of"),
    "more tensors than bytes": (header(500, body=PADDING), "a count of 500"),
    "2**64-1 keys": (header(0, 2**64 - 1), "a count of"),
    "a long key": (header(0, 1, struct.pack("<Q", 2**62) + PADDING), "a count of"),
    "a key that is no text": (header(0, 1, gguf_string(b"\xff") + PADDING), "not UTF-8"),
    "a value of no type": (header(0, 1, KEY + struct.pack("<I", 77) + PADDING), "type 77"),
    "a key twice": (header(0, 2, 2 * (KEY + gguf_value(1)) + PADDING), "appears twice"),
    "a huge array": (
        header(0, 1, KEY + struct.pack("<IIQ", 9, 4, 2**40) + PADDING),
        "a count of",
    ),
    "arrays within arrays": (
        header(0, 1, KEY + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 40),
        "value of type 9",
    ),
    "an alignment of 0": (
        header(0, 1, gguf_string("general.alignment") + gguf_value(0) + PADDING),
        "general.alignment is 0",
    ),
    "an alignment of text": (
        header(0, 1, gguf_string("general.alignment") + gguf_value("32") + PADDING),
        "general.alignment is '32'",
    ),
    "5 axes": (header(1, body=entry(shape=(1,) * 5) + PADDING), "5 axes"),
    "an axis of 0": (header(1, body=entry(shape=(0, 4)) + PADDING), "size outside"),
    "an axis of 2**60": (header(1, body=entry(shape=(2**60,)) + PADDING), "size outside"),
    "a size that overflows": (header(1, body=entry(shape=(2**40,) * 4) + PADDING), "ends after"),
    "half a block": (header(1, body=entry(shape=(33,), kind=2) + PADDING), "not whole Q4_0 blocks"),
    "data after the end": (header(1, body=entry(offset=2**40) + PADDING), "ends after"),
    "an offset of 2**64-32": (header(1, body=entry(offset=2**64 - 32) + PADDING), "ends after"),
    "an offset between": (header(1, body=entry(offset=7) + PADDING), "not a multiple of 32"),
    "data that overlaps": (
        header(2, body=entry("a") + entry("b", offset=32) + PADDING),
        "overlaps",
    ),
    "a tensor twice": (header(2, body=entry() + entry(offset=128) + PADDING), "appears twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_files_are_refused(tmp_path, case):
    data, reason = MALFORMED[case]
    path = write(tmp_path, data)
    with pytest.raises(FormatError, match=reason) as error:
        GgufFile(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (header(version=1), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "a big-endian file"),
    ],
)
def test_other_kinds_of_gguf_are_refused_by_name(tmp_path, data, reason):
    with pytest.raises(UnsupportedFormatError, match=reason):
        GgufFile(write(tmp_path, data))


def good_file():
    tensors = {UP: gguf_tensor(Written(None), UP, "Q4_0", (3, 64)), "n": (0, (4,), b"\0" * 16)}
    return gguf_file({**UNKNOWN, "list": [1, 2, 3], "names": ["a", "b"]}, tensors)


@settings(max_examples=100)
@given(st.data())
def test_no_damage_does_worse_than_an_error(tmp_path_factory, data):
    raw = bytearray(good_file())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(raw) - 1, 300)))
        raw[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    path = write(tmp_path_factory.mktemp("damaged"), bytes(raw[:cut]))
    try:
        with Checkpoint(path) as source:
            for tensor in logical_tensors(source):
                tensor.read(source)
    except (FormatError, UnsupportedFormatError):
        pass


@pytest.mark.parametrize("name", ["__metadata__", "a\0b"])
def test_names_that_safetensors_do_not_have_are_refused_before_any_work(tmp_path, name):
    tensors = {name: (0, (4,), bytes(16))}
    path = write(tmp_path, gguf_file(UNKNOWN, tensors))
    with pytest.raises(FormatError, match="tensor names must be valid Unicode"):
        quantize_checkpoint(path, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize("name", ["sha256-0123abcd", "Model.GGUF"])
def test_a_gguf_file_may_have_any_name(tmp_path, name):
    path = write(tmp_path, gguf_file(UNKNOWN, {"a": (0, (4,), bytes(16))}), name)
    with Checkpoint(path) as source:
        assert source.is_gguf
        assert source.names == ("a",)


def test_arrays_of_texts_have_a_limit(tmp_path, monkeypatch):
    """Each is looked at: a header of gigabytes would take minutes, nested ones memory too."""
    monkeypatch.setattr("binq.files.gguf.MAX_ELEMENTS", 5000)
    good = gguf_file({**UNKNOWN, "a": ["x"] * 3000, "b": [1] * 100_000}, {})
    GgufFile(write(tmp_path, good)).close()
    bad = gguf_file({**UNKNOWN, "a": ["x"] * 3000, "b": ["x"] * 3000}, {})
    with pytest.raises(FormatError, match="metadata 'b': more than 5000 elements in all arrays"):
        GgufFile(write(tmp_path, bad))
