"""What is kept, or stored another way: types of GGUF, convolutions, tied and narrow weights."""

import json

import ml_dtypes
import numpy as np
import pytest
from checkpoints.fixtures import F32, GGUF_TYPES, Written, gguf_file, gguf_tensor, save

import binq
from binq.convert.rewrite import Rounding
from binq.convert.verify import verify
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

BF16 = ml_dtypes.bfloat16
EMBED, HEAD = "token_embd.weight", "output.weight"
UP = "model.layers.0.mlp.up_proj.weight"


def load(folder):
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors.update(binq.load_file(file))
    return tensors


def entries(report):
    return {tensor.name: tensor for tensor in report.tensors}


def gguf(folder, tensors, name="m.gguf"):
    path = folder / name
    path.write_bytes(gguf_file({"general.architecture": "deepseek2"}, tensors))
    return path


def q6_k(shape, scale):
    """Returns a Q6_K tensor of random bits whose blocks have one scale."""
    rng = np.random.default_rng(5)
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // 256, 210), dtype=np.uint8)
    blocks[:, 208:] = np.full(1, scale, np.float16).view(np.uint8)
    return 14, shape, blocks.tobytes()


@pytest.mark.parametrize("options", [{}, {"embeddings": "keep"}, {"rules": ["*=keep"]}])
@pytest.mark.parametrize(("kind", "format"), [("Q4_0", "int4"), ("TQ2_0", "ternary")])
def test_kept_types_of_gguf_are_packed_where_no_bit_is_lost(tmp_path, options, kind, format):
    written = Written(tmp_path)
    path = gguf(tmp_path, {EMBED: gguf_tensor(written, EMBED, kind, (96, 256))})
    report = binq.quantize_checkpoint(path, tmp_path / "t", **options)
    made = load(tmp_path / "t")[EMBED]
    assert made.format == format
    np.testing.assert_array_equal(made.dequantize(), written.values[EMBED])
    assert report.bytes_after < 1.05 * report.bytes_before
    assert list(verify(tmp_path / "t", path)) == []


@pytest.mark.parametrize(("scale", "dtype", "least"), [(1e-4, np.float16, 70), (60, BF16, 50)])
def test_other_kept_types_become_the_nearer_of_two_16_bit_types(tmp_path, scale, dtype, least):
    """float16, unless it overflows; never float32."""
    path = gguf(tmp_path, {EMBED: q6_k((64, 256), scale), HEAD: q6_k((64, 256), scale)})
    report = binq.quantize_checkpoint(path, tmp_path / "t")
    made = load(tmp_path / "t")
    with Checkpoint(path) as source:
        for tensor in logical_tensors(source):
            values = tensor.read(source)
            entry = entries(report)[tensor.name]
            assert made[tensor.name].dtype == dtype
            assert np.array_equal(made[tensor.name], values.astype(dtype))
            assert (entry.kept, entry.bytes_after) == (True, 64 * 256 * 2)
            assert least < entry.sqnr_db < 120
            assert entry.max_error == np.abs(values - made[tensor.name].astype(F32)).max()
            assert "rounded from Q6_K" in entry.reason
    assert "2.44 times as large as the source" in report.warnings[-1]
    assert "--embeddings int4" in report.warnings[-1]
    assert list(verify(tmp_path / "t", path)) == []


def test_numbers_too_small_for_float16_become_bfloat16(tmp_path):
    # Of NVFP4, which no format holds.
    blocks = np.random.default_rng(2).integers(0, 256, (64 * 256 // 64, 36), dtype=np.uint8)
    blocks[:, :4] = 0x38  # 1.0
    scale = np.array([2.0**-37], F32)
    tensors = {
        EMBED: (40, (64, 256), blocks.tobytes()),
        EMBED.replace("weight", "scale"): (GGUF_TYPES["F32"], (1,), scale.tobytes()),
    }
    path = gguf(tmp_path, tensors)
    report = binq.quantize_checkpoint(path, tmp_path / "t")
    made = load(tmp_path / "t")[EMBED]
    with Checkpoint(path) as source:
        (tensor,) = logical_tensors(source)
        assert made.dtype == BF16
        np.testing.assert_array_equal(made.astype(F32), tensor.read(source))
    assert report.tensors[0].max_error == 0
    assert "rounded" not in report.tensors[0].reason
    assert list(verify(tmp_path / "t", path)) == []


def test_a_changed_rounded_tensor_is_found(tmp_path):
    path = gguf(tmp_path, {EMBED: q6_k((64, 256), 1e-4)})
    binq.quantize_checkpoint(path, tmp_path / "t")
    other = gguf(tmp_path, {EMBED: q6_k((64, 256), 2e-4)}, "other.gguf")
    assert any(EMBED in problem for problem in verify(tmp_path / "t", other))


def test_a_dry_run_says_the_same_sizes(tmp_path):
    path = gguf(tmp_path, {EMBED: q6_k((64, 256), 1e-4)})
    planned = binq.quantize_checkpoint(path, tmp_path / "t", dry_run=True)
    made = binq.quantize_checkpoint(path, tmp_path / "t")
    assert (planned.bytes_after, planned.tensors[0].format) == (made.bytes_after, "F16")


def test_rounding_of_values_that_16_bits_hold_has_no_error():
    rounding = Rounding()
    values = np.arange(-64, 64, dtype=F32).reshape(4, 32)
    np.testing.assert_array_equal(rounding.add(values), values)
    assert (rounding.dtype, rounding.sqnr_db, rounding.max_error) == (np.float16, np.inf, 0)


def test_block_types_of_vectors_are_kept_as_they_are_read(tmp_path):
    written = Written(tmp_path)
    name = "blk.0.attn_norm.weight"
    path = gguf(tmp_path, {name: gguf_tensor(written, name, "Q8_0", (64,))})
    binq.quantize_checkpoint(path, tmp_path / "t")
    made = load(tmp_path / "t")[name]
    np.testing.assert_array_equal(made[0], written.values[name].astype(np.float16))
    assert list(verify(tmp_path / "t", path)) == []


CONVS = {
    "model.layers.0.linear_attn.conv1d.weight": (512, 1, 4),
    "model.visual.patch_embed.proj.weight": (64, 3, 2, 16, 16),
    "model.visual.stem.weight": (48, 32, 3, 3),
}


def test_convolutions_are_matrices_of_their_products(tmp_path):
    written = Written(tmp_path / "s")
    for name, shape in CONVS.items():
        written.plain(name, shape, np.float16)
    save(written, {"model_type": "qwen3_5"})
    report = binq.quantize_checkpoint(written.path, tmp_path / "t", rules=["*=int4"])
    made, found = load(tmp_path / "t"), entries(report)
    for name in list(CONVS)[1:]:
        assert made[name] == binq.quantize(
            written.values[name].reshape(len(made[name]), -1), "int4"
        )
    # Four inputs would be stored as 32.
    name = next(iter(CONVS))
    assert np.array_equal(made[name], written.stored[name])
    assert found[name].reason == "int4 g32 would take 36.0 bits a weight: kept"
    settings = json.loads((tmp_path / "t/config.json").read_text())["quantization_config"]
    assert settings["flattened"] == {name: list(CONVS[name]) for name in list(CONVS)[1:]}
    assert list(verify(tmp_path / "t", written.path)) == []


@pytest.mark.parametrize("shape", [(1, 4096), (3, 64), (64, 3), (2, 2, 64)])
def test_what_packing_would_enlarge_is_kept(tmp_path, shape):
    written = Written(tmp_path / "s")
    written.linear(UP, shape)
    save(written, {"model_type": "qwen3"})
    report = binq.quantize_checkpoint(written.path, tmp_path / "t", rules=["*=int4"])
    assert report.tensors[0].kept
    assert "bits a weight: kept" in report.tensors[0].reason
    assert report.bytes_after == report.bytes_before


def tied_model(folder, tied, head=None, **config):
    written = Written(folder)
    written.plain("lm_head.weight", (96, 64))
    same = written.stored["lm_head.weight"]
    if head is None:
        head = same
    del written.stored["lm_head.weight"]
    written.put("model.embed_tokens.weight", same)
    if head is not False:
        written.put("lm_head.weight", head)
    written.linear(UP, (64, 64))
    return save(written, {"model_type": "llama", "tie_word_embeddings": tied} | config)


@pytest.mark.parametrize("embeddings", [None, "int4:g32"])
def test_tied_weights_are_stored_once(tmp_path, embeddings):
    written = tied_model(tmp_path / "s", True)
    report = binq.quantize_checkpoint(written.path, tmp_path / "t", embeddings=embeddings)
    assert set(load(tmp_path / "t")) == {"model.embed_tokens.weight", UP}
    entry = entries(report)["lm_head.weight"]
    assert (entry.format, entry.bytes_after) == ("tied", 0)
    settings = json.loads((tmp_path / "t/config.json").read_text())["quantization_config"]
    assert settings["tied"] == {"lm_head.weight": "model.embed_tokens.weight"}
    assert list(verify(tmp_path / "t", written.path)) == []
    changed = tied_model(tmp_path / "o", True, written.stored["lm_head.weight"][::-1].copy())
    assert any("lm_head" in problem for problem in verify(tmp_path / "t", changed.path))


def test_weights_that_are_not_tied_or_not_equal_are_stored_twice(tmp_path):
    names = {"model.embed_tokens.weight", "lm_head.weight", UP}
    other = np.ones((96, 64), BF16)
    for n, (tied, head, options) in enumerate(
        [(False, None, {}), (True, other, {}), (True, None, {"lm_head": "int4"})]
    ):
        written = tied_model(tmp_path / f"s{n}", tied, head)
        binq.quantize_checkpoint(written.path, tmp_path / f"t{n}", **options)
        assert set(load(tmp_path / f"t{n}")) == names
        assert list(verify(tmp_path / f"t{n}", written.path)) == []


def test_options_that_do_nothing_say_so(tmp_path):
    written = tied_model(tmp_path / "s", True, False)
    report = binq.quantize_checkpoint(written.path, tmp_path / "t", lm_head="int4")
    assert "ties it to its embeddings" in report.warnings[0]
    assert "--embeddings" in report.warnings[0]
    assert "--lm-head" in str(report)
    plain = Written(tmp_path / "p")
    plain.linear(UP, (64, 64))
    save(plain, {"model_type": "llama"})
    report = binq.quantize_checkpoint(plain.path, tmp_path / "u", embeddings="int4")
    assert "did nothing: no tensor is an embedding" in report.warnings[0]
    assert not binq.quantize_checkpoint(plain.path, tmp_path / "v", lm_head="keep").warnings
