"""GGUF files of models that llama.cpp stores otherwise: values and names are Hugging Face's."""

import json

import numpy as np
import pytest
from checkpoints.fixtures import F32, Written, floats, gguf_file, gguf_tensor

import binq
from binq.convert.verify import verify
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

HEADS, KV, WIDTH = 8, 2, 256
LLAMA = {
    "general.architecture": "llama",
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV,
}
L, B = "model.layers.3.", "blk.3."


def to_llama_cpp(values, heads):
    """The order of rows that llama.cpp's converter makes: the halves of a head by turns."""
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(np.swapaxes(halves, 1, 2).reshape(values.shape))


def f32(values):
    return 0, values.shape, values.astype(F32).tobytes()


def write(folder, metadata, tensors):
    (folder / "m.gguf").write_bytes(gguf_file(metadata, tensors))
    return folder / "m.gguf"


def weights(*names, shape=(WIDTH, WIDTH)):
    return {name: floats(name, shape) for name in names}


def read(path):
    with Checkpoint(path) as source:
        return {tensor.name: tensor.read(source) for tensor in logical_tensors(source)}


@pytest.fixture
def llama(tmp_path):
    """Returns a file of a layer of Llama, and the values that Hugging Face has."""
    hf = {
        L + "self_attn.q_proj.weight": floats("q", (WIDTH, WIDTH)),
        L + "self_attn.k_proj.weight": floats("k", (WIDTH // 4, WIDTH)),
        L + "self_attn.v_proj.weight": floats("v", (WIDTH // 4, WIDTH)),
        L + "self_attn.o_proj.weight": floats("o", (WIDTH, WIDTH)),
        L + "mlp.up_proj.weight": floats("up", (96, WIDTH)),
        L + "input_layernorm.weight": floats("norm", (WIDTH,)),
        L + "self_attn.q_proj.bias": floats("bias", (WIDTH,)),
        "model.embed_tokens.weight": floats("embed", (64, WIDTH)),
        "model.norm.weight": floats("last", (WIDTH,)),
        "lm_head.weight": floats("head", (64, WIDTH)),
        "rope_freqs.weight": floats("freqs", (16,)),
    }
    stored = dict(
        zip(
            [B + "attn_q.weight", B + "attn_k.weight", B + "attn_v.weight",
             B + "attn_output.weight", B + "ffn_up.weight", B + "attn_norm.weight",
             B + "attn_q.bias", "token_embd.weight",
             "output_norm.weight", "output.weight", "rope_freqs.weight"],
            hf.values(), strict=True,
        )
    )  # fmt: skip
    for name, heads in (
        (B + "attn_q.weight", HEADS),
        (B + "attn_k.weight", KV),
        (B + "attn_q.bias", HEADS),
    ):
        stored[name] = to_llama_cpp(stored[name], heads)
    return write(tmp_path, LLAMA, {name: f32(values) for name, values in stored.items()}), hf


def doubts(report):
    """Returns the warnings but those on files that these metadata do not tell."""
    files = ("config.json describes no model", "there is no tokenizer.json")
    return [warning for warning in report.warnings if not warning.startswith(files)]


def test_q_and_k_of_llama_are_put_in_order(llama):
    path, hf = llama
    found = read(path)
    assert found.keys() == hf.keys()
    for name, values in hf.items():
        np.testing.assert_array_equal(found[name], values, name)


def test_any_rows_of_them_are_the_same_rows(llama):
    path, hf = llama
    with Checkpoint(path) as source:
        for tensor in logical_tensors(source):
            if len(tensor.shape) > 1:
                rows = len(hf[tensor.name])
                for start, stop in ((0, 1), (5, 40), (rows - 3, rows), (31, 33)):
                    part = tensor.read_rows(source, 0, start, stop)
                    np.testing.assert_array_equal(part, hf[tensor.name][start:stop])


def test_a_conversion_writes_what_the_names_say(llama, tmp_path):
    path, hf = llama
    report = binq.quantize_checkpoint(path, tmp_path / "t", group_size=64)
    made = binq.load_file(next((tmp_path / "t").glob("*.safetensors")))
    assert made.keys() == hf.keys()
    for name, values in hf.items():
        if "proj.weight" in name:
            assert made[name] == binq.quantize(values, "int4", group_size=64), name
        else:
            np.testing.assert_array_equal(made[name], values, name)
            assert made[name].dtype == F32
    assert doubts(report) == []
    settings = json.loads((tmp_path / "t/config.json").read_text())["quantization_config"]
    assert settings["convention"] == "Hugging Face"
    assert list(verify(tmp_path / "t", path)) == []


def test_rules_know_both_names(llama, tmp_path):
    path, _ = llama
    report = binq.quantize_checkpoint(
        path, tmp_path / "t", rules=["blk.*.attn_q.weight=ternary", "*.k_proj.weight=keep"]
    )
    formats = {t.name: t.format for t in report.tensors}
    assert formats[L + "self_attn.q_proj.weight"] == "ternary g128"
    assert formats[L + "self_attn.k_proj.weight"] == "F32"
    assert list(verify(tmp_path / "t", path)) == []


@pytest.mark.parametrize("kind", ["Q4_0", "TQ2_0", "Q1_0"])
def test_packed_q_and_k_are_put_in_order_without_loss(tmp_path, kind):
    written = Written(tmp_path)
    name = B + "attn_q.weight"
    path = write(tmp_path, LLAMA, {name: gguf_tensor(written, name, kind, (WIDTH, 512))})
    expected = written.values[name].reshape(HEADS, -1, 2, 512).swapaxes(1, 2).reshape(WIDTH, 512)
    report = binq.quantize_checkpoint(path, tmp_path / "t")
    made = binq.load_file(next((tmp_path / "t").glob("*.safetensors")))
    assert "exact" in report.tensors[0].format
    np.testing.assert_array_equal(made[L + "self_attn.q_proj.weight"].dequantize(), expected)
    assert list(verify(tmp_path / "t", path)) == []


def test_heads_may_differ_by_layer(tmp_path):
    q, k = floats("q", (WIDTH, 64)), floats("k", (WIDTH, 64))
    metadata = LLAMA | {
        "llama.attention.head_count": [1, 1, 1, 8],
        "llama.attention.head_count_kv": [0, 1, 1, 4],
    }
    path = write(
        tmp_path,
        metadata,
        {
            B + "attn_q.weight": f32(to_llama_cpp(q, 8)),
            B + "attn_k.weight": f32(to_llama_cpp(k, 4)),
        },
    )
    found = read(path)
    np.testing.assert_array_equal(found[L + "self_attn.q_proj.weight"], q)
    np.testing.assert_array_equal(found[L + "self_attn.k_proj.weight"], k)


@pytest.mark.parametrize(
    "metadata", [{}, {"llama.attention.head_count": 7}, {"llama.attention.head_count": "8"}]
)
def test_a_file_that_does_not_say_the_order_is_refused(tmp_path, metadata):
    metadata = {"general.architecture": "llama"} | metadata
    path = write(tmp_path, metadata, {B + "attn_k.weight": f32(floats("k", (WIDTH, 64)))})
    with Checkpoint(path) as source, pytest.raises(FormatError, match=r"attn_k.*head_count"):
        logical_tensors(source)


def test_experts_of_mixtral_have_names_too(tmp_path):
    stack = floats("stack", (4, 96, WIDTH))
    tensors = {
        B + "ffn_gate_exps.weight": f32(stack),
        B + "ffn_gate_inp.weight": f32(floats("router", (4, WIDTH))),
    }
    found = read(write(tmp_path, LLAMA, tensors))
    assert set(found) == {
        L + "block_sparse_moe.switch_mlp.gate_proj.weight",
        L + "block_sparse_moe.gate.weight",
    }


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "gemma3"])
def test_norms_of_gemma_lose_the_1_that_was_added(tmp_path, kind):
    norms = {"attn_norm": "input_layernorm", "attn_q_norm": "self_attn.q_norm"}
    norms["ffn_norm"] = "post_attention_layernorm"
    if kind != "gemma":
        norms |= {"post_attention_norm": "post_attention_layernorm",
                  "ffn_norm": "pre_feedforward_layernorm",
                  "post_ffw_norm": "post_feedforward_layernorm"}  # fmt: skip
    # bfloat16 numbers plus 1, as the converter has them.
    small = (floats("norm", (WIDTH,)).view(np.uint32) & 0xFFFF0000).view(F32)
    tensors = {f"{B}{name}.weight": f32(small + F32(1)) for name in norms}
    tensors |= {
        "output_norm.weight": f32(small + F32(1)),
        B + "attn_q.weight": f32(floats("q", (64, 64))),
    }
    path = write(tmp_path, {"general.architecture": kind}, tensors)
    found = read(path)
    np.testing.assert_array_equal(found.pop(L + "self_attn.q_proj.weight"), floats("q", (64, 64)))
    assert set(found) == {f"{L}{name}.weight" for name in norms.values()} | {"model.norm.weight"}
    for name, values in found.items():
        np.testing.assert_allclose(values, small, atol=2e-7, err_msg=name)
    binq.quantize_checkpoint(path, tmp_path / "t")
    assert list(verify(tmp_path / "t", path)) == []


@pytest.mark.parametrize(("kind", "doubtful"), [("olmo2", False), ("gpt-oss", True)])
def test_other_files_keep_the_names_and_values_of_llama_cpp(tmp_path, kind, doubtful):
    values = weights(B + "attn_q.weight", B + "ffn_up.weight")
    path = write(tmp_path, {"general.architecture": kind}, {n: f32(v) for n, v in values.items()})
    found = read(path)
    assert found.keys() == values.keys()
    for name in values:
        np.testing.assert_array_equal(found[name], values[name])
    report = binq.quantize_checkpoint(path, tmp_path / "t")
    assert [f"'{kind}': names and values" in w for w in doubts(report)] == [True] * doubtful
    settings = json.loads((tmp_path / "t/config.json").read_text())["quantization_config"]
    assert settings["convention"] == "llama.cpp"


QWEN = {"general.architecture": "qwen35", "qwen35.ssm.group_count": 4,
        "qwen35.ssm.time_step_rank": 12, "qwen35.ssm.state_size": 32,
        "qwen35.ssm.inner_size": 12 * 64, "qwen35.block_count": 5,
        "qwen35.nextn_predict_layers": 1}  # fmt: skip
A = L + "linear_attn."


def tiled(values, width, start=0, axis=0):
    """Value heads as llama.cpp has them: the first of each key head, then the second of each."""
    values = np.moveaxis(values, axis, 0)
    heads = values[start:].reshape(4, 3, width, *values.shape[1:]).swapaxes(0, 1)
    turned = np.concatenate([values[:start], heads.reshape(-1, *values.shape[1:])])
    return np.ascontiguousarray(np.moveaxis(turned, 0, axis))


def qwen35():
    """Returns what Hugging Face has of a layer of linear attention, and what llama.cpp stores."""
    rows = 2 * 4 * 32 + 12 * 64
    hf = {
        A + "in_proj_qkv.weight": floats("qkv", (rows, WIDTH)),
        A + "in_proj_z.weight": floats("z", (768, WIDTH)),
        A + "in_proj_a.weight": floats("a", (12, WIDTH)),
        A + "in_proj_b.weight": floats("b", (12, WIDTH)),
        A + "conv1d.weight": floats("conv", (rows, 1, 4)),
        A + "A_log": floats("A", (12,)),
        A + "dt_bias": floats("dt", (12,)),
        A + "norm.weight": floats("norm", (64,)),
        A + "out_proj.weight": floats("out", (WIDTH, 768)),
        L + "post_attention_layernorm.weight": floats("post", (WIDTH,)),
        "model.norm.weight": floats("last", (WIDTH,)),
    }
    stored = {
        B + "attn_qkv.weight": tiled(hf[A + "in_proj_qkv.weight"], 64, 256),
        B + "attn_gate.weight": tiled(hf[A + "in_proj_z.weight"], 64),
        B + "ssm_alpha.weight": tiled(hf[A + "in_proj_a.weight"], 1),
        B + "ssm_beta.weight": tiled(hf[A + "in_proj_b.weight"], 1),
        B + "ssm_conv1d.weight": tiled(hf[A + "conv1d.weight"][:, 0], 64, 256),
        B + "ssm_a": tiled(-np.exp(hf[A + "A_log"]), 1),
        B + "ssm_dt.bias": tiled(hf[A + "dt_bias"], 1),
        B + "ssm_norm.weight": hf[A + "norm.weight"],
        B + "ssm_out.weight": tiled(hf[A + "out_proj.weight"], 64, axis=1),
        B + "post_attention_norm.weight": hf[L + "post_attention_layernorm.weight"] + F32(1),
        "output_norm.weight": hf["model.norm.weight"] + F32(1),
    }
    return hf, stored


def test_linear_attention_of_qwen35_is_turned_back(tmp_path):
    hf, stored = qwen35()
    stored["blk.4.attn_norm.weight"] = hf["blk.4.attn_norm.weight"] = floats("mtp", (WIDTH,))
    path = write(tmp_path, QWEN, {name: f32(values) for name, values in stored.items()})
    found = read(path)
    assert found.keys() == hf.keys()
    for name, values in hf.items():
        assert found[name].shape == values.shape
        exact = name.endswith(("norm.weight", "A_log")) and "linear_attn.norm" not in name
        np.testing.assert_allclose(found[name], values, atol=5e-7 if exact else 0, err_msg=name)
    report = binq.quantize_checkpoint(path, tmp_path / "t", group_size=64)
    assert doubts(report) == []
    made = binq.load_file(next((tmp_path / "t").glob("*.safetensors")))
    for name in ("in_proj_qkv", "in_proj_z", "out_proj"):
        expected = binq.quantize(hf[f"{A}{name}.weight"], "int4", group_size=64)
        assert made[f"{A}{name}.weight"] == expected
    assert made[A + "A_log"].dtype == F32
    reasons = {t.name: t.reason for t in report.tensors}
    assert reasons["model.norm.weight"].endswith("; llama.cpp's form of it was undone")
    assert "llama.cpp" not in reasons[A + "norm.weight"]
    assert list(verify(tmp_path / "t", path)) == []


@pytest.mark.parametrize(("kind", "exact"), [("Q4_0", True), ("TQ2_0", False)])
def test_columns_stay_exact_where_heads_are_whole_groups(tmp_path, kind, exact):
    written = Written(tmp_path)
    name = B + "ssm_out.weight"
    path = write(tmp_path, QWEN, {name: gguf_tensor(written, name, kind, (64, 768))})
    hf = written.values[name].reshape(64, 3, 4, 64).swapaxes(1, 2).reshape(64, 768)
    np.testing.assert_array_equal(read(path)[A + "out_proj.weight"], hf)
    report = binq.quantize_checkpoint(path, tmp_path / "t")
    assert ("exact" in report.tensors[0].format) == exact
    if exact:
        made = binq.load_file(next((tmp_path / "t").glob("*.safetensors")))
        np.testing.assert_array_equal(made[A + "out_proj.weight"].dequantize(), hf)
    assert list(verify(tmp_path / "t", path)) == []


@pytest.mark.parametrize("key", ["ssm.group_count", "ssm.time_step_rank", "ssm.inner_size"])
@pytest.mark.parametrize("value", [None, 7, "4", 0])
def test_heads_that_the_metadata_do_not_tell_are_refused(tmp_path, key, value):
    metadata = {k: v for k, v in QWEN.items() if k != f"qwen35.{key}"}
    if value is not None:
        metadata[f"qwen35.{key}"] = value
    path = write(tmp_path, metadata, {B + "attn_gate.weight": f32(floats("z", (768, 32)))})
    with Checkpoint(path) as source, pytest.raises(FormatError, match=r"attn_gate"):
        logical_tensors(source)


def test_experts_and_gates_of_qwen35moe_have_names(tmp_path):
    metadata = {key.replace("qwen35", "qwen35moe"): value for key, value in QWEN.items()}
    metadata["general.architecture"] = "qwen35moe"
    tensors = {
        B + "ffn_gate_exps.weight": floats("e", (4, 64, WIDTH)),
        B + "ffn_gate_inp.weight": floats("r", (4, WIDTH)),
        B + "ffn_gate_inp_shexp.weight": floats("s", (WIDTH,)),
        B + "ffn_up_shexp.weight": floats("u", (64, WIDTH)),
    }
    found = read(write(tmp_path, metadata, {name: f32(values) for name, values in tensors.items()}))
    assert {name: values.shape for name, values in found.items()} == {
        L + "mlp.switch_mlp.gate_proj.weight": (4, 64, WIDTH),
        L + "mlp.gate.weight": (4, WIDTH),
        L + "mlp.shared_expert_gate.weight": (1, WIDTH),
        L + "mlp.shared_expert.up_proj.weight": (64, WIDTH),
    }


def test_weights_with_a_scale_of_their_own_are_refused(tmp_path):
    path = write(tmp_path, LLAMA, {B + "ffn_up.scale": f32(np.ones(1, F32))})
    with Checkpoint(path) as source, pytest.raises(UnsupportedFormatError, match=r"ffn_up\.scale"):
        logical_tensors(source)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (B + "attn_q.weight", ()),
        (B + "attn_q.weight", (2, WIDTH, 8)),
        (B + "attn_q.bias", ()),
        (B + "ssm_a", (12, 2)),
        (B + "ssm_conv1d.weight", (1024,)),
        (B + "attn_gate.weight", (767, 8)),
        (B + "attn_qkv.weight", (768, 8)),
        (B + "ssm_out.weight", (8, 1536)),
    ],
)
def test_shapes_that_the_metadata_do_not_explain_are_refused(tmp_path, name, shape):
    metadata = LLAMA if "attn_q." in name else QWEN
    path = write(tmp_path, metadata, {name: f32(np.ones(shape, F32))})
    with Checkpoint(path) as source, pytest.raises(FormatError, match=name):
        logical_tensors(source)


@pytest.mark.parametrize("drafting", [5, 6, "1", -1, 1.5])
def test_more_layers_that_draft_than_layers_are_refused(tmp_path, drafting):
    metadata = QWEN | {"qwen35.nextn_predict_layers": 2**32 - 1 if drafting == -1 else drafting}
    path = write(tmp_path, metadata, {B + "attn_norm.weight": f32(np.ones(8, F32))})
    with Checkpoint(path) as source, pytest.raises(FormatError, match="nextn_predict_layers"):
        logical_tensors(source)
