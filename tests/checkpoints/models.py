"""Whole tiny checkpoints of each family, each in the layout of the published one."""

from pathlib import Path
from typing import Any

import numpy as np
from checkpoints.fixtures import (
    BF16,
    F16,
    F32,
    Written,
    awq,
    bitnet_packed,
    by_group,
    compressed,
    floats,
    fp8_block,
    gguf_file,
    gguf_tensor,
    gptq,
    integers,
    mlx_affine,
    mxfp4,
    save,
    scales_of,
)

HIDDEN = 128
VOCAB = 67  # odd, as Bonsai's: nothing that packs along the output axis fits


def attention(written: Written, layer: str, *, heads=True, kv=True, bias=False) -> None:
    for name in "qkvo" if kv else "qko":
        rows = HIDDEN if name in "qo" else 64
        written.linear(f"{layer}.self_attn.{name}_proj.weight", (rows, HIDDEN))
        if bias:
            written.plain(f"{layer}.self_attn.{name}_proj.bias", (rows,))
    if heads:
        written.plain(f"{layer}.self_attn.q_norm.weight", (32,))
        written.plain(f"{layer}.self_attn.k_norm.weight", (32,))


def mlp(written: Written, layer: str, inner: int = 192, part: str = "mlp") -> None:
    for name in ("gate", "up"):
        written.linear(f"{layer}.{part}.{name}_proj.weight", (inner, HIDDEN))
    written.linear(f"{layer}.{part}.down_proj.weight", (HIDDEN, inner))


def norms(written: Written, layer: str, *names: str) -> None:
    for name in names or ("input_layernorm", "post_attention_layernorm"):
        written.plain(f"{layer}.{name}.weight", (HIDDEN,))


def ends(written: Written, prefix: str = "model", head: str | None = "lm_head") -> None:
    written.plain(f"{prefix}.embed_tokens.weight", (VOCAB, HIDDEN))
    written.plain(f"{prefix}.norm.weight", (HIDDEN,))
    if head:
        written.plain(f"{head}.weight", (VOCAB, HIDDEN))


def qwen3(path: Path, dtype: Any = BF16) -> Written:
    """A dense model in one file."""
    w = Written(path)
    ends(w)
    attention(w, "model.layers.0")
    mlp(w, "model.layers.0")
    norms(w, "model.layers.0")
    w.stored = {name: array.astype(dtype) for name, array in w.stored.items()}
    w.values = {name: array.astype(F32) for name, array in w.stored.items()}
    return save(w, {"model_type": "qwen3", "num_hidden_layers": 1})


def qwen35(path: Path) -> Written:
    """Linear and full attention, a vision tower and MTP, in shards of an unusual name."""
    w = Written(path)
    model = "model.language_model"
    ends(w, model)
    layer = f"{model}.layers.0"
    for name, shape in {"in_proj_qkv": (320, HIDDEN), "in_proj_z": (HIDDEN, HIDDEN),
                        "out_proj": (HIDDEN, HIDDEN)}.items():  # fmt: skip
        w.linear(f"{layer}.linear_attn.{name}.weight", shape)
    for name in ("in_proj_a", "in_proj_b"):
        w.plain(f"{layer}.linear_attn.{name}.weight", (4, HIDDEN))
    w.plain(f"{layer}.linear_attn.conv1d.weight", (320, 1, 4))
    w.plain(f"{layer}.linear_attn.A_log", (4,), F32)
    w.plain(f"{layer}.linear_attn.dt_bias", (4,))
    w.plain(f"{layer}.linear_attn.norm.weight", (32,), F32)
    mlp(w, layer)
    norms(w, layer)
    attention(w, f"{model}.layers.1")
    mlp(w, f"{model}.layers.1")
    norms(w, f"{model}.layers.1")
    w.plain("model.visual.patch_embed.proj.weight", (24, 3, 2, 4, 4))
    w.plain("model.visual.pos_embed.weight", (16, 24))
    w.plain("model.visual.blocks.0.attn.qkv.weight", (72, 24))
    w.plain("model.visual.blocks.0.mlp.linear_fc1.weight", (43, 24))
    w.plain("mtp.fc.weight", (HIDDEN, 2 * HIDDEN))
    w.plain("mtp.layers.0.mlp.up_proj.weight", (192, HIDDEN))
    config = {"model_type": "qwen3_5", "text_config": {"num_hidden_layers": 2}}
    return save(w, config, [f"model.safetensors-0000{i}-of-00002.safetensors" for i in (1, 2)])


def gpt_oss(path: Path, packed: bool = True) -> Written:
    """Experts in MXFP4, shards from 00000 and a decoy; or fused and input-major in bfloat16."""
    w = Written(path)
    ends(w)
    layer = "model.layers.0"
    attention(w, layer, heads=False, bias=True)
    w.plain(f"{layer}.self_attn.sinks", (8,))
    norms(w, layer)
    w.plain(f"{layer}.mlp.router.weight", (3, HIDDEN))
    w.plain(f"{layer}.mlp.router.bias", (3,))
    for name, shape in {"gate_up_proj": (3, 192, HIDDEN), "down_proj": (3, HIDDEN, 96)}.items():
        base = f"{layer}.mlp.experts.{name}"
        w.plain(f"{base}_bias", shape[:2])
        if packed:
            mxfp4(w, base, shape)
        else:
            input_major(w, base, shape)
    config: dict[str, Any] = {
        "model_type": "gpt_oss", "num_hidden_layers": 1, "hidden_size": HIDDEN,
    }  # fmt: skip
    if not packed:
        return save(w, config)
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    shards = [f"model-0000{i}-of-00002.safetensors" for i in range(3)]
    save(w, config, shards)
    decoy = Written(path / "original")
    decoy.plain("embedding.weight", (4, 4))
    save(decoy, {})
    return w


def gpt_oss_bf16(path: Path) -> Written:
    return gpt_oss(path, packed=False)


def input_major(w: Written, name: str, shape: tuple[int, ...]) -> None:
    """Adds a stack of logical shape (experts, out, in) that is stored (experts, in, out)."""
    values = floats(name, shape).astype(BF16)
    w.packed(name, values.astype(F32), {name: np.ascontiguousarray(values.swapaxes(1, 2))})


def gemma4(path: Path) -> Written:
    """Embeddings of each layer, towers with scalar buffers, no lm_head."""
    w = Written(path)
    model = "model.language_model"
    ends(w, model, head=None)
    w.plain(f"{model}.embed_tokens_per_layer.weight", (VOCAB, 32))
    w.plain(f"{model}.per_layer_model_projection.weight", (32, HIDDEN))
    w.plain(f"{model}.per_layer_projection_norm.weight", (16,))
    layer = f"{model}.layers.0"
    attention(w, layer, kv=False)
    mlp(w, layer)
    norms(w, layer, "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
          "post_feedforward_layernorm", "post_per_layer_input_norm")  # fmt: skip
    w.plain(f"{layer}.layer_scalar", (1,))
    w.plain(f"{layer}.per_layer_input_gate.weight", (16, HIDDEN))
    w.plain(f"{layer}.per_layer_projection.weight", (HIDDEN, 16))
    for tower in ("vision_tower.encoder", "audio_tower"):
        module = f"model.{tower}.layers.0.mlp.up_proj"
        w.plain(f"{module}.linear.weight", (48, 32))
        w.plain(f"{module}.input_min", ())
        w.plain(f"{module}.output_max", ())
    w.plain("model.embed_vision.embedding_projection.weight", (HIDDEN, 32))
    w.plain("model.embed_audio.embedding_projection.weight", (HIDDEN, 32))
    config = {"model_type": "gemma4", "text_config": {"num_hidden_layers": 1}}
    return save(w, config)


def gemma4_unified(path: Path) -> Written:
    """No encoders: an embedder of patches; full attention without v_proj."""
    w = Written(path)
    model = "model.language_model"
    ends(w, model, head=None)
    attention(w, f"{model}.layers.0")
    attention(w, f"{model}.layers.1", kv=False)
    for index in range(2):
        mlp(w, f"{model}.layers.{index}")
        w.plain(f"{model}.layers.{index}.layer_scalar", (1,))
    w.plain("model.vision_embedder.patch_dense.weight", (HIDDEN, 48))
    w.plain("model.vision_embedder.patch_ln1.weight", (48,))
    w.plain("model.vision_embedder.pos_embedding", (8, 2, HIDDEN))
    return save(w, {"model_type": "gemma4_unified", "text_config": {"num_hidden_layers": 2}})


def gemma4_moe(path: Path) -> Written:
    """Fused experts, output-major, without ``.weight``, beside a dense MLP."""
    w = Written(path)
    model = "model.language_model"
    ends(w, model, head=None)
    layer = f"{model}.layers.0"
    attention(w, layer)
    mlp(w, layer)
    norms(w, layer, "pre_feedforward_layernorm_2", "post_feedforward_layernorm_1")
    w.linear(f"{layer}.experts.gate_up_proj", (3, 96, HIDDEN))
    w.linear(f"{layer}.experts.down_proj", (3, HIDDEN, 48))
    w.plain(f"{layer}.router.proj.weight", (3, HIDDEN))
    w.plain(f"{layer}.router.scale", (HIDDEN,))
    w.plain(f"{layer}.router.per_expert_scale", (3,))
    text = {"num_hidden_layers": 1, "hidden_size": HIDDEN}
    return save(w, {"model_type": "gemma4", "text_config": text})


def gemma4_moe_mlx(path: Path) -> Written:
    """The same experts as MLX names and stores them."""
    w = Written(path)
    layer = "language_model.model.layers.0"
    for name, shape in {"gate_proj": (3, 48, HIDDEN), "up_proj": (3, 48, HIDDEN),
                        "down_proj": (3, HIDDEN, 64)}.items():  # fmt: skip
        module = f"{layer}.experts.switch_glu.{name}"
        scales = scales_of(module, (*shape[:2], shape[2] // 32), BF16)
        biases = (floats(module + "b", scales.shape) / 10).astype(BF16)
        codes = integers(module, 0, 15, shape)
        mlx_affine(w, module, shape, 4, 32, scales=scales, biases=biases, codes=codes)
    w.plain(f"{layer}.router.proj.weight", (3, HIDDEN))
    settings = {"group_size": 32, "bits": 4, "mode": "affine"}
    config = {"model_type": "gemma4", "text_config": {"num_hidden_layers": 1}}
    return save(w, {**config, "quantization": settings, "quantization_config": settings})


def llama4(path: Path) -> Written:
    """Fused experts, input-major; a vision model whose width is no multiple of 32."""
    w = Written(path)
    ends(w, "language_model.model", "language_model.lm_head")
    layer = "language_model.model.layers.0"
    attention(w, layer, heads=False)
    norms(w, layer)
    input_major(w, f"{layer}.feed_forward.experts.gate_up_proj", (3, 192, HIDDEN))
    input_major(w, f"{layer}.feed_forward.experts.down_proj", (3, HIDDEN, 96))
    w.plain(f"{layer}.feed_forward.router.weight", (3, HIDDEN))
    mlp(w, layer, 96, "feed_forward.shared_expert")
    w.plain("multi_modal_projector.linear_1.weight", (HIDDEN, 64))
    w.plain("vision_model.class_embedding", (24,))
    w.plain("vision_model.patch_embedding.linear.weight", (24, 75))
    w.plain("vision_model.model.layers.0.self_attn.q_proj.weight", (24, 24))
    w.plain("vision_model.model.layers.0.self_attn.q_proj.bias", (24,))
    text = {"num_hidden_layers": 1, "hidden_size": HIDDEN}
    config = {"model_type": "llama4", "text_config": text}
    return save(w, config, [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)])


def llama4_compressed(path: Path) -> Written:
    """Experts taken apart by a quantizer, each an output-major linear."""
    w = Written(path)
    layer = "language_model.model.layers.0.feed_forward"
    for expert in range(2):
        for name, shape in {"gate_proj": (96, HIDDEN), "up_proj": (96, HIDDEN),
                            "down_proj": (HIDDEN, 64)}.items():  # fmt: skip
            compressed(w, f"{layer}.experts.{expert}.{name}", shape, 4, 32)
    w.plain(f"{layer}.router.weight", (2, HIDDEN))
    config = {"model_type": "llama4", "text_config": {"num_hidden_layers": 1}}
    return save(w, {**config, "quantization_config": ct_config(4, 32, True)})


def deepseek(path: Path, block: tuple[int, int] = (32, 48)) -> Written:
    """float8 blocks, ragged both ways, with scales in another shard; layer 1 drafts tokens."""
    w = Written(path)
    ends(w)
    shapes = {"q_a_proj": (64, HIDDEN), "q_b_proj": (96, 64), "kv_b_proj": (96, 32),
              "kv_a_proj_with_mqa": (72, HIDDEN), "o_proj": (HIDDEN, 64)}  # fmt: skip
    for index in range(2):
        layer = f"model.layers.{index}"
        for name, shape in shapes.items():
            fp8_block(w, f"{layer}.self_attn.{name}.weight", shape, block)
        fp8_block(w, f"{layer}.mlp.experts.0.up_proj.weight", (32, HIDDEN), block)
        fp8_block(w, f"{layer}.mlp.shared_experts.down_proj.weight", (HIDDEN, 32), block)
        w.plain(f"{layer}.mlp.gate.weight", (4, HIDDEN))
        w.plain(f"{layer}.mlp.gate.e_score_correction_bias", (4,), F32)
        w.plain(f"{layer}.self_attn.kv_a_layernorm.weight", (32,))
        norms(w, layer)
    w.plain("model.layers.1.eh_proj.weight", (HIDDEN, 2 * HIDDEN))
    w.plain("model.layers.1.shared_head.head.weight", (VOCAB, HIDDEN))
    w.quantized = {name for name in w.quantized if not name.startswith("model.layers.1.")}
    config = {
        "model_type": "deepseek_v3",
        "num_hidden_layers": 1,
        "num_nextn_predict_layers": 1,
        "quantization_config": {
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
            "weight_block_size": list(block),
        },
    }  # fmt: skip
    shards = [f"model-0000{i}-of-000002.safetensors" for i in (1, 2)]
    return save(w, config, shards, lambda name: 0 if name.endswith("scale_inv") else 1)


DENSE = {
    "model.embed_tokens": (VOCAB, 256), "lm_head": (VOCAB, 256),
    "model.layers.0.self_attn.q_proj": (128, 256), "model.layers.0.self_attn.o_proj": (256, 128),
    "model.layers.0.mlp.up_proj": (96, 256), "model.layers.0.mlp.down_proj": (256, 384),
}  # fmt: skip
QWEN3 = {"model_type": "qwen3", "num_hidden_layers": 1}


def bonsai_mlx(path: Path, bits: int = 1) -> Written:
    """Every matrix in 1 bit (±s) or 2 bits (−s, 0, s), embeddings and head too."""
    w = Written(path)
    for module, shape in DENSE.items():
        s = scales_of(module, (shape[0], shape[1] // 128))
        codes = integers(module, 0, bits, shape)
        scales = (2 * s if bits == 1 else s).astype(F16)
        mlx_affine(w, module, shape, bits, 128, scales=scales, biases=-s, codes=codes)
    w.plain("model.norm.weight", (256,), F16)
    settings = {"group_size": 128, "bits": bits}
    config = {**QWEN3, "quantization": settings, "quantization_config": settings}
    return save(w, config, metadata={"format": "mlx"})


def bonsai_mlx_ternary(path: Path) -> Written:
    return bonsai_mlx(path, 2)


def mlx_4bit(path: Path) -> Written:
    """What MLX itself makes: 4 bits, arbitrary biases, modules of other settings or none."""
    w = Written(path)
    for module, shape in DENSE.items():
        if module == "lm_head":
            w.plain("lm_head.weight", shape, F16)
            continue
        bits, group = (8, 64) if module.endswith("q_proj") else (4, 32)
        scales = scales_of(module, (shape[0], shape[1] // group), BF16)
        biases = (floats(module + "b", scales.shape) / 10).astype(BF16)
        codes = integers(module, 0, (1 << bits) - 1, shape)
        mlx_affine(w, module, shape, bits, group, scales=scales, biases=biases, codes=codes)
    w.quantized.discard("model.embed_tokens.weight")
    settings = {"group_size": 32, "bits": 4, "lm_head": False}
    settings["model.layers.0.self_attn.q_proj"] = {"group_size": 64, "bits": 8}
    return save(w, {**QWEN3, "quantization": settings, "quantization_config": settings})


def bonsai_unpacked(path: Path) -> Written:
    """Plain float16 whose matrices hold two values a group of 128."""
    w = Written(path)
    for module, shape in DENSE.items():
        s = scales_of(module, (shape[0], shape[1] // 128))
        values = (2 * integers(module, 0, 1, shape) - 1) * by_group(s, 128, shape[1])
        w.packed(f"{module}.weight", values, {f"{module}.weight": values.astype(F16)})
    w.plain("model.norm.weight", (256,), F16)
    return save(w, QWEN3)


def bonsai_gguf(path: Path) -> Written:
    """One GGUF file in Q1_0, norms in float32."""
    w = Written(path)
    shapes = {"token_embd": (VOCAB, 256), "output": (VOCAB, 256), "blk.0.attn_q": (128, 256),
              "blk.0.ffn_down": (256, 384)}  # fmt: skip
    names = {"token_embd": "model.embed_tokens", "output": "lm_head",
             "blk.0.attn_q": "model.layers.0.self_attn.q_proj",
             "blk.0.ffn_down": "model.layers.0.mlp.down_proj"}  # fmt: skip
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = gguf_tensor(w, f"{name}.weight", "Q1_0", shape)
    w.values = {f"{names[n]}.weight": w.values[f"{n}.weight"] for n in names}
    w.quantized = set(w.values)
    norm = floats("norm", (256,))
    w.values["model.layers.0.input_layernorm.weight"] = norm
    tensors["blk.0.attn_norm.weight"] = (0, (256,), norm.tobytes())
    metadata = {"general.architecture": "qwen3", "general.file_type": 40, "qwen3.block_count": 1}
    path.mkdir(parents=True)
    (path / "Bonsai-Q1_0.gguf").write_bytes(gguf_file(metadata, tensors))
    return w


def bitnet(path: Path, linear_class: str = "autobitlinear") -> Written:
    """Packed ternary weights, four strips of rows a byte; tied bfloat16 embeddings."""
    w = Written(path)
    w.plain("model.embed_tokens.weight", (VOCAB, 256))
    for module, shape in list(DENSE.items())[2:]:
        bitnet_packed(w, f"{module}.weight", shape, linear_class != "autobitlinear")
    w.plain("model.layers.0.mlp.ffn_sub_norm.weight", (384,))
    w.plain("model.layers.0.self_attn.attn_sub_norm.weight", (128,))
    settings = {"quant_method": "bitnet", "linear_class": linear_class}
    config = {"model_type": "bitnet", "num_hidden_layers": 1, "quantization_config": settings}
    return save(w, config)


def bitnet_bf16(path: Path) -> Written:
    """The bfloat16 masters."""
    w = Written(path)
    w.plain("model.embed_tokens.weight", (VOCAB, HIDDEN))
    attention(w, "model.layers.0", heads=False)
    settings = {
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online",
    }  # fmt: skip
    config = {"model_type": "bitnet", "num_hidden_layers": 1, "quantization_config": settings}
    return save(w, config)


def ct_config(bits: int, group: int | None, symmetric: bool) -> dict[str, Any]:
    weights = {
        "num_bits": bits, "type": "int", "symmetric": symmetric, "group_size": group,
        "strategy": "channel" if group is None else "group",
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }  # fmt: skip


def _dense_packed(path: Path, settings: dict[str, Any], pack: Any) -> Written:
    w = Written(path)
    w.plain("model.embed_tokens.weight", (VOCAB, 256))
    w.plain("lm_head.weight", (VOCAB, 256))
    for module, shape in list(DENSE.items())[2:]:
        pack(w, module, shape)
    return save(w, {**QWEN3, "quantization_config": settings})


def compressed_tensors(
    path: Path, bits: int = 4, group: int | None = 128, symmetric: bool = True
) -> Written:
    return _dense_packed(
        path,
        ct_config(bits, group, symmetric),
        lambda w, module, shape: compressed(w, module, shape, bits, group, symmetric),
    )


def gptq_model(
    path: Path, bits: int = 4, group: int = 128, version: int = 1, zero: int | None = None
) -> Written:
    settings = {
        "quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False,
        "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
    }  # fmt: skip
    return _dense_packed(
        path, settings, lambda w, m, shape: gptq(w, m, shape, bits, group, version, zero)
    )


def awq_model(path: Path, binary: bool = False) -> Written:
    settings = {
        "quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm",
    }  # fmt: skip
    return _dense_packed(path, settings, lambda w, m, s: awq(w, m, s, 128, binary=binary))


MODELS = {
    "awq": awq_model, "bitnet": bitnet, "bitnet_bf16": bitnet_bf16, "bonsai_gguf": bonsai_gguf,
    "bonsai_mlx": bonsai_mlx, "bonsai_mlx_ternary": bonsai_mlx_ternary,
    "bonsai_unpacked": bonsai_unpacked, "compressed_tensors": compressed_tensors,
    "deepseek": deepseek, "gemma4": gemma4, "gemma4_moe": gemma4_moe,
    "gemma4_moe_mlx": gemma4_moe_mlx, "gemma4_unified": gemma4_unified,
    "gpt_oss": gpt_oss, "gpt_oss_bf16": gpt_oss_bf16,
    "gptq": gptq_model, "llama4": llama4,
    "llama4_compressed": llama4_compressed, "mlx_4bit": mlx_4bit, "qwen3": qwen3, "qwen35": qwen35,
}  # fmt: skip
