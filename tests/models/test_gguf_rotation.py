"""GGUF files of PrismML's rotated weights: read as what they stand for, packed as they are."""

import json

import numpy as np
import pytest
from checkpoints.fixtures import F16, F32, floats, gguf_file, integers, pack_words, scales_of

import binq
from binq import Rotation
from binq.convert.verify import verify
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

WIDTH, BLOCK = 256, 64
TYPES = {"PQ2_0": 142, "PTQ1_0": 143}
UP, DOWN, TABLE = "blk.0.ffn_up.weight", "blk.0.ffn_down.weight", "token_embd.weight"
SHAPES = {UP: (128, WIDTH), DOWN: (WIDTH, 128), TABLE: (40, WIDTH)}
NAMES = {
    UP: "model.layers.0.mlp.up_proj.weight", DOWN: "model.layers.0.mlp.down_proj.weight",
    TABLE: "model.embed_tokens.weight",
}  # fmt: skip
SIGNS = {n: np.random.default_rng(n).choice([-1, 1], n).astype(np.int8) for n in (WIDTH, 128)}
SAID = {
    "version": 1, "block_size": BLOCK, "transform": "normalized-sylvester-walsh-hadamard",
    "axis": "input-last-dimension", "sign_mode": "explicit",
    "sign_widths": np.array([WIDTH, 128], np.int32),
    "sign_values": np.concatenate([SIGNS[WIDTH], SIGNS[128]]), "weight_names": [UP, DOWN],
    "inverse_weight_names": [TABLE], "gdn_v_grouped": True,
}  # fmt: skip


def blocks(kind, codes, scales):
    """Returns the blocks of ternary weights: of PQ2_0, or of PTQ1_0 from its definition."""
    data = []
    for block, scale in zip(codes.reshape(-1, 128), scales.reshape(-1), strict=True):
        half = F16(scale).tobytes()
        if kind == "PQ2_0":
            data.append(half + pack_words(block + 1, 2).tobytes())
            continue
        packed = b""
        for first, width, digits in ((0, 16, 5), (80, 8, 5), (120, 2, 4)):
            trits = (block + 1)[first : first + width * digits].reshape(digits, width)
            numbers = sum(trit * 3 ** (4 - n) for n, trit in enumerate(trits))
            packed += ((numbers * 256 + 242) // 243).astype(np.uint8).tobytes()
        data.append(packed + half)
    return b"".join(data)


def written(folder, kind="PQ2_0", **changes):
    """Writes a file; returns its path and the codes and scales of its weights."""
    said = {key: value for key, value in (SAID | changes).items() if value is not None}
    metadata = {"general.architecture": "qwen3"}
    metadata |= {f"prism.hadamard.{key}": value for key, value in said.items()}
    tensors, stored = {}, {}
    for name, shape in SHAPES.items():
        codes = integers(name, -1, 1, shape)
        scales = scales_of(name, (*shape[:-1], shape[-1] // 128))
        tensors[name] = (TYPES[kind], shape, blocks(kind, codes, scales))
        stored[name] = codes, scales
    norm = floats("norm", (WIDTH,))
    tensors["blk.0.attn_norm.weight"] = (0, (WIDTH,), norm.tobytes())
    folder.mkdir(exist_ok=True)
    (folder / "m.gguf").write_bytes(gguf_file(metadata, tensors))
    return folder / "m.gguf", stored


@pytest.mark.parametrize("kind", TYPES)
def test_weights_are_those_of_the_basis_of_x(tmp_path, kind):
    path, stored = written(tmp_path / "s", kind)
    with Checkpoint(path) as source:
        found = {tensor.name: tensor for tensor in logical_tensors(source)}
        assert found["model.layers.0.input_layernorm.weight"].scheme == "plain"
        for name, (codes, scales) in stored.items():
            tensor = found[NAMES[name]]
            rotation = Rotation.of(BLOCK, SIGNS[codes.shape[1]])
            expected = (codes * np.repeat(scales, 128, axis=1)).astype(F32)
            rotation.back(expected)
            np.testing.assert_array_equal(tensor.read(source), expected)
            exact = tensor.exact_format(source)
            assert str(exact.packing) == "ternary g128 rotated 64"


@pytest.mark.parametrize("kind", TYPES)
def test_a_conversion_keeps_codes_and_basis(tmp_path, kind):
    path, stored = written(tmp_path / "s", kind)
    report = binq.quantize_checkpoint(path, tmp_path / "t", "ternary")
    assert report.quality.exact == 3
    assert report.quality.worst is None
    assert list(verify(tmp_path / "t", path)) == []
    with binq.load(tmp_path / "t") as packed, binq.load(path) as direct:
        for name, (codes, _) in stored.items():
            q = packed[NAMES[name]]
            np.testing.assert_array_equal(q.codes(), codes)
            assert q.rotation == Rotation.of(BLOCK, SIGNS[codes.shape[1]])
            assert direct[NAMES[name]] == q
    config = json.loads((tmp_path / "t/config.json").read_text())
    assert config["quantization_config"]["version"] == 4
    binq.dequantize_checkpoint(tmp_path / "t", tmp_path / "plain", dtype="float32")
    with binq.load(tmp_path / "plain") as plain, binq.load(path) as direct:
        for name in NAMES.values():
            np.testing.assert_array_equal(plain[name], direct[name].dequantize())


def test_no_signs(tmp_path):
    path, _ = written(tmp_path / "s", sign_mode="identity", sign_widths=None, sign_values=None)
    with binq.load(path) as tensors:
        assert tensors[NAMES[UP]].rotation == Rotation.of(BLOCK, np.ones(WIDTH))


def test_a_table_that_is_the_head_too(tmp_path):
    path, _ = written(tmp_path / "s", version=2, tied_output=True)
    with binq.load(path) as tensors:
        q = tensors[NAMES[TABLE]]
        x = floats("x", (3, WIDTH))
        np.testing.assert_allclose(
            binq.linear(x, q, activations="float32"), x @ q.dequantize().T, atol=1e-4
        )


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"version": 3}, UnsupportedFormatError, "version"),
        ({"version": 2}, UnsupportedFormatError, "version"),
        ({"transform": "dct"}, UnsupportedFormatError, "transform"),
        ({"axis": "output"}, UnsupportedFormatError, "axis"),
        ({"sign_mode": "seeded"}, UnsupportedFormatError, "sign_mode"),
        ({"second_block": 3}, UnsupportedFormatError, "second_block"),
        ({"inverse_weight_names": [UP]}, UnsupportedFormatError, "inverse_weight_names"),
        ({"block_size": 96}, FormatError, "power of two"),
        ({"block_size": 4096}, FormatError, "divides"),
        ({"block_size": None}, UnsupportedFormatError, "no 'prism.hadamard.block_size'"),
        ({"weight_names": ["blk.7.ffn_up.weight"]}, FormatError, r"blk\.7"),
        ({"weight_names": ["blk.0.attn_norm.weight"]}, UnsupportedFormatError, "products"),
        ({"sign_values": SIGNS[WIDTH]}, FormatError, "do not fit"),
        ({"sign_widths": np.array([384], np.int32)}, FormatError, "rotation of"),
        ({"sign_values": np.zeros(384, np.int8)}, FormatError, "−1 and 1"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, changes, error, reason):
    path, _ = written(tmp_path / "s", **changes)
    with Checkpoint(path) as source, pytest.raises(error, match=reason):
        logical_tensors(source)


def test_types_that_come_without_a_word_are_refused(tmp_path):
    path, _ = written(tmp_path / "s", **dict.fromkeys(SAID))
    with Checkpoint(path) as source, pytest.raises(UnsupportedFormatError, match="nothing says"):
        logical_tensors(source)
    with pytest.raises(UnsupportedFormatError, match=r"no prism\.hadamard"):
        binq.load(path)


@pytest.mark.parametrize("to", ["gguf", "mlx", "gptq", "awq", "bitnet", "compressed-tensors"])
def test_no_target_of_export_has_a_rotation(tmp_path, to):
    path, _ = written(tmp_path / "s")
    binq.quantize_checkpoint(path, tmp_path / "t", "ternary")
    with pytest.raises(UnsupportedFormatError, match="rotated basis"):
        binq.export_checkpoint(tmp_path / "t", tmp_path / "out", to=to)


def test_another_model_type_is_refused_by_name(tmp_path):
    binq.save_file({"model.norm.weight": np.ones(4, F32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "prism_hadamard_gemma"}')
    with pytest.raises(UnsupportedFormatError, match=r"'prism_hadamard_gemma'.*GGUF"):
        binq.load(tmp_path)
