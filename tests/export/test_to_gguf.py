"""To a GGUF file and back: types, names, the order of rows, metadata; what is refused."""

import json

import ml_dtypes
import numpy as np
import pytest
from checkpoints.exported import CONFIG, SIZES

import binq
from binq.files.gguf import GgufFile
from binq.models.gguf_names import written_name


def exported(source, tmp_path, name="m.gguf"):
    report = binq.export_checkpoint(source, tmp_path / name, to="gguf")
    return tmp_path / name, report


def types(path):
    with GgufFile(path) as file:
        return {name: file.info(name).dtype for name in file}


def metadata(path):
    with GgufFile(path) as file:
        return dict(file.metadata)


def with_config(folder, **changes):
    """Changes keys of a folder's config.json; None takes one away."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.parametrize(
    ("format", "settings", "type"),
    [
        ("binary", {}, "Q1_0"),
        ("binary", {"group_size": None}, "Q1_0"),
        ("binary", {"group_size": 64}, "Q2_0"),
        ("ternary", {"group_size": 256}, "TQ2_0"),
        ("ternary", {}, "Q2_0"),
        ("ternary", {"group_size": 32}, "Q4_0"),
        ("int2", {"group_size": 64}, "Q2_0"),
        ("int2", {"symmetric": False, "group_size": 32}, "Q4_1"),
        ("int2", {"symmetric": False, "zero": "code", "group_size": 32}, "Q4_0"),
        ("int3", {}, "Q4_0"),
        ("int3", {"symmetric": False, "zero": "code"}, "Q4_0"),
        ("int3", {"symmetric": False, "group_size": 32}, "Q4_1"),
        ("mxfp4", {"group_size": 32}, "MXFP4"),
        ("iq4nl", {"group_size": 32}, "IQ4_NL"),
        ("iq4nl", {}, "IQ4_NL"),
        ("int4", {}, "Q4_0"),
        ("int4", {"group_size": 32}, "Q4_0"),
        ("int4", {"group_size": None}, "Q4_0"),
        ("int4", {"symmetric": False}, "Q5_0"),
        ("int4", {"symmetric": False, "zero": "offset", "group_size": 32}, "Q4_1"),
        ("int8", {}, "Q8_0"),
        ("int8", {"group_size": 32}, "Q8_0"),
        ("int8", {"group_size": None, "method": "absmax"}, "Q8_0"),
    ],
    ids=str,
)
def test_codes_and_scales_survive(packed, tmp_path, format, settings, type):
    source = packed(format, **settings)
    path, _ = exported(source, tmp_path)
    assert types(path)["blk.1.ffn_gate.weight"] == type
    with binq.load(source) as before, binq.load(path) as after:
        assert len(after) == len(before)
        for name, weights in before.items():
            values = np.asarray(after[name])
            np.testing.assert_array_equal(values, np.asarray(weights), err_msg=name)


def test_llama_has_the_rows_of_q_and_k_by_turns(qwen3, tmp_path):
    folder = tmp_path / "llama"
    folder.mkdir()
    tensors = {n: np.asarray(t) for n, t in binq.load(qwen3).items() if "q_norm" not in n}
    tensors = {n: t for n, t in tensors.items() if "k_norm" not in n}
    bias = np.arange(128, dtype=np.float32)
    tensors["model.layers.0.self_attn.q_proj.bias"] = bias
    binq.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "model_type": "llama"}))
    binq.quantize_checkpoint(folder, tmp_path / "packed", "int4")
    path, report = exported(tmp_path / "packed", tmp_path)
    # The reader puts them back, and gives the tensors their names again.
    with binq.load(tmp_path / "packed") as before, binq.load(path) as after:
        assert set(after) == set(before)
        for name, weights in before.items():
            np.testing.assert_array_equal(np.asarray(after[name]), np.asarray(weights))
    with GgufFile(path) as file:
        stored = file.read_bytes("blk.0.attn_q.bias", 0, 512).view(np.float32)
    assert stored[:6].tolist() == [0, 16, 1, 17, 2, 18]  # 4 heads of 32
    assert metadata(path)["llama.rope.dimension_count"] == 32
    assert len(report.tensors) == len(before)


def test_what_is_kept(packed, tmp_path):
    source = packed("int4", rules=["*.v_proj.weight=keep"])
    stored = binq.load_file(source / "model-00001-of-00001.safetensors")
    stored["model.layers.0.self_attn.v_proj.weight"] = np.ones((64, 256), ml_dtypes.bfloat16)
    stored["model.layers.1.self_attn.v_proj.weight"] = np.ones((64, 256), np.float16)
    stored["model.norm.weight"] = np.full(256, 1.5, ml_dtypes.bfloat16)
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(16, np.float32)
    (source / "binq.safetensors.index.json").unlink()
    (source / "model-00001-of-00001.safetensors").unlink()
    binq.save_file(stored, source / "model.safetensors")
    path, _ = exported(source, tmp_path)
    kinds = types(path)
    assert kinds["token_embd.weight"] == kinds["output_norm.weight"] == "F32"
    assert kinds["blk.0.attn_v.weight"] == "BF16"
    assert kinds["blk.1.attn_v.weight"] == "F16"
    assert not any("inv_freq" in name for name in kinds)
    assert np.array_equal(binq.load(path)["model.norm.weight"], np.full(256, 1.5, np.float32))


def test_metadata(packed, tmp_path):
    path, report = exported(packed("int4"), tmp_path)
    found = metadata(path)
    assert found["general.architecture"] == "qwen3"
    assert found["general.file_type"] == 2
    assert found["general.quantization_version"] == 2
    assert found["qwen3.context_length"] == 512
    assert found["qwen3.embedding_length"] == 256
    assert found["qwen3.block_count"] == 2
    assert found["qwen3.feed_forward_length"] == 512
    assert found["qwen3.attention.head_count"] == 4
    assert found["qwen3.attention.head_count_kv"] == 2
    assert found["qwen3.attention.key_length"] == found["qwen3.attention.value_length"] == 32
    assert found["qwen3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert found["qwen3.rope.freq_base"] == 10000.0
    assert found["qwen3.vocab_size"] == 96
    assert found["tokenizer.ggml.model"] == "none"
    assert "no tokenizer.json" in " ".join(report.notes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"rope_theta": None, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
            {"rope.freq_base": 5e5, "rope.scaling.type": None},
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 4}},
            {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        ),
        (
            {
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 256,
                    "beta_fast": 32,
                }
            },
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.original_context_length": 256,
                "rope.scaling.yarn_beta_fast": 32.0,
            },
        ),
        ({"head_dim": None}, {"attention.key_length": 32}),
    ],
)
def test_settings_of_positions(packed, tmp_path, changes, expected):
    source = packed("int4")
    with_config(source, **changes)
    found = metadata(exported(source, tmp_path)[0])
    assert {key: found.get(f"qwen3.{key}") for key in expected} == expected


def test_the_frequencies_of_llama_3_are_a_tensor(packed, tmp_path):
    source = packed("int4", rules=["*=keep", "*.up_proj.weight=int4"][::-1])
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    with_config(source, rope_parameters=rope, model_type="llama", rope_theta=None)
    tensors = binq.load(source)
    kept = {n: t for n, t in tensors.items() if not n.endswith(("q_norm.weight", "k_norm.weight"))}
    binq.save_file(kept, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    path, _ = exported(tmp_path / "m.safetensors", tmp_path)
    with GgufFile(path) as file:
        factors = file.read("rope_freqs.weight")
    waves = 2 * np.pi * 500000.0 ** (np.arange(0, 32, 2) / 32)
    assert factors.shape == (16,)
    assert (factors[waves < 2048] == 1).all()
    assert (factors[waves > 8192] == 8).all()
    assert ((factors >= 1) & (factors <= 8)).all()
    assert np.any((factors > 1) & (factors < 8))


def test_a_file_of_no_model_keeps_its_names(tmp_path):
    q = binq.quantize(np.random.default_rng(0).standard_normal((3, 40, 64)), "int4", group_size=32)
    binq.save_file({"some.stack": q, "b": np.ones(3, np.float16)}, tmp_path / "m.safetensors")
    path, report = exported(tmp_path / "m.safetensors", tmp_path)
    assert types(path) == {"some.stack": "Q4_0", "b": "F32"}
    assert np.array_equal(np.asarray(binq.load(path)["some.stack"]), q.dequantize())
    assert "not of a known model" in " ".join(report.notes)


def test_what_is_missing_is_said(packed, tmp_path):
    source = packed("int4")
    with_config(source, rms_norm_eps=None, num_hidden_layers=None)
    tensors = {n: t for n, t in binq.load(source).items() if "embed" not in n}
    binq.save_file(tensors, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    _, report = exported(tmp_path / "m.safetensors", tmp_path)
    notes = " ".join(report.notes)
    assert "no token_embd.weight, which llama.cpp needs" in notes
    assert "no num_hidden_layers, rms_norm_eps, which llama.cpp needs" in notes


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model_type": "gemma4"}, "model_type 'gemma4' is not known here"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"hidden_size": "many"}, "hidden_size is many, expected a size"),
        ({"rope_theta": 1e300}, "rope_theta is 1e\\+300, expected a number"),
        ({"rope_theta": 10**400}, "rope_theta is 1000"),
        ({"rms_norm_eps": True}, "rms_norm_eps is True, expected a number"),
        ({"rope_parameters": {"rope_type": "strange"}}, "rope_type 'strange'"),
        ({"rope_parameters": 7}, "rope_parameters is 7, not an object"),
        ({"model_type": "llama", "num_attention_heads": None}, "num_attention_heads None"),
    ],
)
def test_configurations_that_are_refused(packed, tmp_path, changes, text):
    source = packed("int4")
    with_config(source, **changes)
    with pytest.raises(ValueError, match=text):
        exported(source, tmp_path)
    assert not list(tmp_path.glob("*m.gguf*"))


def test_weights_that_no_type_holds_are_refused_with_the_reasons(packed, tmp_path):
    source = packed("int4", symmetric=False, zero="offset")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = dict(binq.load(source))
    wide = binq.quantize(np.random.default_rng(0).standard_normal((512, 250)), "int4")
    binq.save_file({**tensors, name: wide}, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    with pytest.raises(binq.UnsupportedFormatError, match="rows of 250 are not whole blocks of 32"):
        exported(tmp_path / "m.safetensors", tmp_path)
    scale = np.float32(1e-7) * np.arange(1, 33, dtype=np.float32)[:, None]
    small = binq.quantize(scale * np.ones((1, 64), np.float32), "binary", scale_dtype="float32")
    binq.save_file({"w": small}, tmp_path / "m.safetensors")
    (tmp_path / "config.json").unlink()
    with pytest.raises(binq.UnsupportedFormatError, match="a scale is not one of its numbers"):
        exported(tmp_path / "m.safetensors", tmp_path)


@pytest.mark.parametrize(
    "empty", [np.zeros((0, 3)), binq.quantize(np.zeros((0, 64)), "int4")], ids=["plain", "packed"]
)
def test_empty_tensors_are_refused(tmp_path, empty):
    q = binq.quantize(np.ones((32, 64)), "int4")
    binq.save_file({"w": q, "e": empty}, tmp_path / "m.safetensors")
    with pytest.raises(binq.UnsupportedFormatError, match="no empty tensors"):
        exported(tmp_path / "m.safetensors", tmp_path)


def test_a_tensor_without_a_name_in_gguf_is_refused(packed, tmp_path):
    source = packed("int4")
    tensors = {**binq.load(source), "model.layers.0.self_attn.sinks": np.ones(4, np.float32)}
    binq.save_file(tensors, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    with pytest.raises(binq.UnsupportedFormatError, match=r"first 'model\.layers\.0\.self_attn\.s"):
        exported(tmp_path / "m.safetensors", tmp_path)


def test_the_file_is_whole_or_not_there(packed, tmp_path, monkeypatch):
    source = packed("int4")
    path, _ = exported(source, tmp_path)
    whole = path.read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        exported(source, tmp_path)
    with pytest.raises(IsADirectoryError, match="dst must be a file"):
        binq.export_checkpoint(source, tmp_path, to="gguf", overwrite=True)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("binq.export.gguf.write_blocks", fail)
        with pytest.raises(OSError, match="No space"):
            binq.export_checkpoint(source, path, to="gguf", overwrite=True)
    assert path.read_bytes() == whole
    assert not list(tmp_path.glob(".m.gguf*"))
    binq.export_checkpoint(source, path, to="gguf", overwrite=True)
    assert path.read_bytes() == whole
    single = tmp_path / "one.safetensors"
    binq.save_file({"w": binq.quantize(np.ones((32, 64)), "int4")}, single)
    with pytest.raises(ValueError, match="must not be the source itself"):
        binq.export_checkpoint(single, single, to="gguf", overwrite=True)


def test_packed_embeddings_and_head(packed, tmp_path):
    source = packed("int4", embeddings="int4:g32")
    path, _ = exported(source, tmp_path)
    assert {types(path)[name] for name in ("token_embd.weight", "output.weight")} == {"Q4_0"}


def test_every_matrix_of_the_model_is_there(packed, tmp_path):
    path, _ = exported(packed("int4"), tmp_path)
    names = {written_name(f"model.layers.0.{name}.weight") for name in SIZES}
    assert names < set(types(path))


def mixture(tmp_path, kind, names, **changes):
    """Writes a file of one layer with experts, three of which are packed as one, and its config."""
    rng = np.random.default_rng(0)
    tensors = {
        "model.embed_tokens.weight": rng.standard_normal((96, 256), np.float32),
        f"model.layers.0.{names[0]}.weight": np.ones((3, 256), ml_dtypes.bfloat16),
    }
    for part in names[2:]:
        for expert in range(3):
            w = rng.standard_normal((256, 256))
            tensors[f"model.layers.0.{names[1]}.{expert}.{part}.weight"] = binq.quantize(w, "int4")
    tensors |= changes.pop("tensors", {})
    binq.save_file(tensors, tmp_path / "m.safetensors")
    sizes = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
    config = {**CONFIG, "model_type": kind, "norm_topk_prob": True, **sizes, **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path / "m.safetensors", tensors


QWEN3_MOE = ("mlp.gate", "mlp.experts", "gate_proj", "up_proj", "down_proj")
MIXTRAL = ("block_sparse_moe.gate", "block_sparse_moe.experts", "w1", "w3", "w2")


@pytest.mark.parametrize(("kind", "names"), [("qwen3_moe", QWEN3_MOE), ("mixtral", MIXTRAL)])
def test_experts_are_stacked(tmp_path, kind, names):
    source, tensors = mixture(tmp_path, kind, names)
    path, _ = exported(source, tmp_path)
    assert types(path)["blk.0.ffn_gate_inp.weight"] == "F32"
    architecture = metadata(path)["general.architecture"]
    assert metadata(path)[f"{architecture}.expert_count"] == 3
    assert metadata(path)[f"{architecture}.expert_used_count"] == 2
    with GgufFile(path) as file:
        assert file.info("blk.0.ffn_up_exps.weight").shape == (3, 256, 256)
    found = binq.load(path, family="generic")
    for part, stack in zip(names[2:], ("gate", "up", "down"), strict=True):
        values = [
            tensors[f"model.layers.0.{names[1]}.{expert}.{part}.weight"].dequantize()
            for expert in range(3)
        ]
        (name,) = (n for n in found if f"{stack}_exps" in n or f"mlp.{stack}_proj" in n)
        assert np.array_equal(np.asarray(found[name]), np.stack(values))


def test_experts_that_are_no_stack_are_refused(tmp_path):
    name = "model.layers.0.mlp.experts.1.up_proj.weight"
    other = {name: binq.quantize(np.random.default_rng(1).standard_normal((256, 256)), "ternary")}
    source, _ = mixture(tmp_path, "qwen3_moe", QWEN3_MOE, tensors=other)
    with pytest.raises(binq.UnsupportedFormatError, match="one tensor of one type, these are Q"):
        exported(source, tmp_path)
    source, _ = mixture(tmp_path, "qwen3_moe", QWEN3_MOE, num_experts=4)
    with pytest.raises(
        binq.UnsupportedFormatError, match=r"experts \[0, 1, 2\], config.json has 4"
    ):
        exported(source, tmp_path)
    for key, value in (
        ("norm_topk_prob", False),
        ("decoder_sparse_step", 2),
        ("mlp_only_layers", [0]),
    ):
        source, _ = mixture(tmp_path, "qwen3_moe", QWEN3_MOE, **{key: value})
        with pytest.raises(binq.UnsupportedFormatError, match=f"{key} of config.json is"):
            exported(source, tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sliding_window": 4096}, True),
        ({"sliding_window": 4096, "use_sliding_window": False}, False),
        ({"sliding_window": None}, False),
    ],
)
def test_windows_that_llama_cpp_does_not_have_are_said(packed, tmp_path, changes, said):
    source = packed("int4")
    with_config(source, **changes)
    _, report = exported(source, tmp_path)
    assert ("a sliding_window of 4096" in " ".join(report.notes)) == said
