"""Settings of quantization that stand elsewhere than in quantization_config of config.json."""

import json

import pytest
from checkpoints import models
from checkpoints.exactness import check, refuse

import binq
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint

AWQ = {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}


def moved(written, name, settings=None, drop=("quant_method",)):
    """Moves the settings to a file of their own, or into ``text_config``."""
    path = written.path / "config.json"
    config = json.loads(path.read_text())
    own = config.pop("quantization_config") if settings is None else settings
    config.pop("quantization_config", None)
    config.pop("quantization", None)
    if name == "text_config":
        config["text_config"] = {"quantization_config": own}
    else:
        own = {key: value for key, value in own.items() if key not in drop}
        (written.path / name).write_text(json.dumps(own))
    path.write_text(json.dumps(config))
    return written


def test_gptq_in_a_file_of_its_own(tmp_path):
    check(moved(models.gptq_model(tmp_path), "quantize_config.json"))


def test_awq_in_a_file_of_its_own(tmp_path):
    check(moved(models.awq_model(tmp_path), "quant_config.json", AWQ))


def test_such_a_file_may_name_its_method(tmp_path):
    check(moved(models.awq_model(tmp_path), "quantize_config.json", drop=()))


def test_modelopt_in_a_file_of_its_own(tmp_path):
    written = models.deepseek(tmp_path, (128, 128))
    settings = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8_PB_WO"}}
    for name in [name for name in written.stored if name.endswith("_scale_inv")]:
        written.stored[name.removesuffix("_inv")] = written.stored.pop(name)
    name = "model.layers.0.self_attn.o_proj.weight"
    saved = models.save(written, {"model_type": "deepseek_v3", "num_hidden_layers": 1})
    (tmp_path / "model.safetensors.index.json").unlink()
    check(moved(saved, "hf_quant_config.json", settings), name)
    settings["quantization"]["quant_algo"] = "W4A16_AWQ"
    refuse(moved(saved, "hf_quant_config.json", settings), UnsupportedFormatError, "W4A16_AWQ")


@pytest.mark.parametrize("model", [models.gptq_model, models.compressed_tensors])
def test_settings_of_the_language_model(tmp_path, model):
    check(moved(model(tmp_path), "text_config"))


def test_settings_of_mlx_in_the_language_model(tmp_path):
    settings = {"group_size": 128, "bits": 1}
    check(moved(models.bonsai_mlx(tmp_path), "text_config", settings))


def test_settings_that_differ_are_refused(tmp_path):
    written = models.gptq_model(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["text_config"] = {"quantization_config": config["quantization_config"] | {"bits": 8}}
    path.write_text(json.dumps(config))
    with pytest.raises(FormatError, match="quantization_config of text_config differ"):
        Checkpoint(written.path)


def test_config_json_is_asked_first(tmp_path):
    written = models.gptq_model(tmp_path)
    (tmp_path / "quantize_config.json").write_text('{"bits": 8}')
    check(written)


def test_settings_of_awq_that_differ_are_refused(tmp_path):
    written = moved(models.awq_model(tmp_path), "quant_config.json", {**AWQ, "bits": 8})
    refuse(written, FormatError, "settings of AWQ differ")


def test_weights_that_are_plain_need_no_method(tmp_path):
    written = models.qwen3(tmp_path)
    config = {**models.QWEN3, "quantization_config": {"weights": {"bits": 4}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    check(written, "lm_head.weight")
    packed = models.bitnet(tmp_path / "packed")
    (packed.path / "config.json").write_text(json.dumps(config))
    refuse(packed, UnsupportedFormatError, "without quant_method has .*weights")


def test_mlx_packs_the_embeddings_of_other_models(tmp_path):
    written = models.bitnet(tmp_path)
    name = "model.embed_tokens.weight"
    del written.stored[name]
    models.mlx_affine(
        written, name.removesuffix(".weight"), (64, 256), 4, 64,
        scales=models.scales_of("s", (64, 4)), biases=models.floats("b", (64, 4)),
        codes=models.integers("c", 0, 15, (64, 256)),
    )  # fmt: skip
    settings = {"quant_method": "bitnet", "linear_class": "autobitlinear", "bits": 4}
    settings["group_size"] = 64
    config = {"model_type": "bitnet", "quantization": settings, "quantization_config": settings}
    check(models.save(written, config))


def test_the_output_has_none_of_these_files(tmp_path):
    for name in ("quantize_config.json", "text_config"):
        written = moved(models.gptq_model(tmp_path / name), name)
        binq.quantize_checkpoint(written.path, tmp_path / f"{name}.out")
        assert not (tmp_path / f"{name}.out" / "quantize_config.json").exists()
        config = json.loads((tmp_path / f"{name}.out" / "config.json").read_text())
        assert config["quantization_config"]["quant_method"] == "binq"
        before = config["quantization_config"]["source_quantization_config"]
        assert before["bits"] == 4
        assert not config.get("text_config")
