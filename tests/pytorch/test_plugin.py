"""The edges of from_pretrained: other classes and dtypes, and what a folder lacks."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest

import binq
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import INDEX, Checkpoint

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch", minversion="2.6")
transformers = pytest.importorskip("transformers", minversion="5.23")
from pytorch.tiny import TOKENS, VOCAB, folder, make  # noqa: E402

import binq.torch  # noqa: E402

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def quiet():
    """transformers and torch warn of what is theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def packed(tmp_path):
    return convert("qwen3", tmp_path)


def convert(family, tmp_path, **settings):
    source = folder(family, tmp_path / "source")
    settings = {"group_size": 32, "embeddings": "int4", "lm_head": "int4"} | settings
    binq.quantize_checkpoint(source, tmp_path / "packed", "int4", **settings)
    return tmp_path / "packed"


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        return model(input_ids=tokens).logits.double()


def distance(a, b):
    return float((a - b).norm() / b.norm())


def typical(a, b):
    """Returns the median error of a token: in half precision some choose another expert."""
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).median())


def rewrite(packed, change):
    """Replaces the tensors of a folder of one shard by what change makes of them."""
    (path,) = packed.glob("*.safetensors")
    tensors = binq.load_file(path)
    change(tensors)
    tensors = {
        name: w if isinstance(w, binq.QuantizedArray) else np.array(w)
        for name, w in tensors.items()
    }
    binq.save_file(tensors, path)
    with Checkpoint(path) as file:
        index = {"metadata": {}, "weight_map": dict.fromkeys(file.names, path.name)}
    (packed / INDEX).write_text(json.dumps(index))


def test_without_the_import_the_load_fails(packed):
    program = f"""if True:
        from transformers import AutoModelForCausalLM
        try:
            AutoModelForCausalLM.from_pretrained({str(packed)!r})
        except OSError as error:
            print("no file named" in str(error))
        import binq.torch
        print(type(AutoModelForCausalLM.from_pretrained({str(packed)!r})).__name__)
        """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.split() == ["True", "Qwen3ForCausalLM"], run.stderr


@pytest.mark.parametrize("family", ["qwen3", "qwen3_tied", "qwen3_moe", "gpt_oss", "qwen3_5"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(family, dtype, tmp_path):
    target = convert(family, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(target, dtype=dtype)
    assert model.dtype is dtype
    assert model.get_input_embeddings()(torch.tensor([3])).dtype is dtype
    expected = logits(binq.torch.load(target))
    whole = binq.torch.load(target).to(dtype)
    for half in (model, whole):
        got = typical(logits(half), expected)
        assert got <= 3 * typical(logits(half.dequantize()), expected)


@pytest.mark.parametrize("family", ["qwen3", "qwen3_tied", "qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_compiled_whole(family, tmp_path):
    torch._dynamo.reset()  # models of other tests count towards its limit of compilations
    model = binq.torch.load(convert(family, tmp_path), activations="float32")
    expected = logits(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert distance(logits(compiled), expected) <= 1e-5


@pytest.mark.parametrize("family", ["qwen3_tied", "mixtral", "gemma4"])
def test_generate(family, tmp_path):
    model = binq.torch.load(convert(family, tmp_path))
    arguments = {"max_new_tokens": 8, "do_sample": False, "min_new_tokens": 8}
    tokens = model.generate(TOKENS, **arguments)
    assert tokens.shape == (1, TOKENS.shape[1] + 8)
    again = binq.torch.load(tmp_path / "packed").generate(TOKENS, **arguments)
    assert torch.equal(tokens, again)


def test_the_weights_stay_mapped(packed):
    model = binq.torch.load(packed)
    weight = model.model.layers[0].mlp.up_proj.weight.array
    (path,) = packed.glob("*.safetensors")
    base = weight.packed
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert not base.flags.owndata
    state = model.state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    assert np.shares_memory(state[f"{name}.packed"].numpy(), weight.packed)
    assert binq.load_file(path)[name] == weight


def test_adapters_below_and_beside_train(packed):
    model = binq.torch.load(packed)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    layer = model.model.layers[0].mlp
    down, up = torch.nn.Linear(64, 4, bias=False), torch.nn.Linear(4, 96, bias=False)
    torch.nn.init.zeros_(up.weight)
    packed_up = layer.up_proj.forward
    layer.up_proj.forward = lambda x: packed_up(x) + up(down(x))
    optimizer = torch.optim.Adam([*down.parameters(), *up.parameters()], 1e-2)
    losses = []
    for _ in range(15):
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05


# Other classes.


def test_the_model_without_its_head(packed):
    model = transformers.AutoModel.from_pretrained(packed, dtype=torch.float32)
    whole = binq.torch.load(packed)
    with torch.no_grad():
        states = model(input_ids=TOKENS).last_hidden_state
        assert torch.equal(whole.lm_head(states), whole(input_ids=TOKENS).logits)


def test_a_new_head_is_initialized(packed):
    cls = transformers.AutoModelForSequenceClassification
    model = cls.from_pretrained(packed, dtype=torch.float32, num_labels=3)
    assert model(input_ids=TOKENS).logits.shape == (1, 3)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "whisper"])
def test_other_architectures(kind, tmp_path):
    """Encoders, layers that lie the other way, convolutions: all that is packed finds a place."""
    torch.manual_seed(0)
    small = {"vocab_size": VOCAB}
    if kind == "bert":
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
        config = transformers.BertConfig(num_attention_heads=2, **sizes, **small)
        model, inputs = transformers.BertForMaskedLM(config), {"input_ids": TOKENS}
    elif kind == "gpt2":
        config = transformers.GPT2Config(n_embd=64, n_layer=2, n_head=2, n_positions=64, **small)
        model, inputs = transformers.GPT2LMHeadModel(config), {"input_ids": TOKENS}
    else:
        sizes = {f"{part}_layers": 1 for part in ("encoder", "decoder")}
        sizes |= {f"{part}_ffn_dim": 96 for part in ("encoder", "decoder")}
        sizes |= {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}
        config = transformers.WhisperConfig(
            d_model=64,
            num_mel_bins=32,
            max_source_positions=16,
            max_target_positions=16,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            **sizes,
            **small,
        )
        model = transformers.WhisperForConditionalGeneration(config)
        inputs = {"input_features": torch.randn(1, 32, 32), "decoder_input_ids": TOKENS}
    model.eval().save_pretrained(tmp_path / "source")
    rules = ["*conv*=int4:g32"] if kind == "whisper" else []
    source, target = tmp_path / "source", tmp_path / "packed"
    report = binq.quantize_checkpoint(source, target, "int4", group_size=32, rules=rules)
    assert sum(not tensor.kept for tensor in report.tensors) > 6
    loaded = binq.torch.load(target, activations="float32")
    with torch.no_grad():
        got = loaded(**inputs).logits
        expected = loaded.dequantize()(**inputs).logits
        floats = model(**inputs).logits
    assert distance(got.double(), expected.double()) <= 5e-6
    assert distance(got.double(), floats.double()) <= 0.5


def test_an_encoder_in_memory():
    config = transformers.BertConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=VOCAB,
    )
    model = transformers.BertModel(config).eval()
    with torch.no_grad():
        expected = model(TOKENS).last_hidden_state
        binq.torch.quantize_(model, "int4", 32, method="absmax", filter=lambda n, m: "query" in n)
        kinds = [type(m).__name__ for n, m in model.named_modules() if n.endswith(("query", "key"))]
        assert kinds == ["QuantizedLinear", "Linear"] * 2
        assert distance(model(TOKENS).last_hidden_state.double(), expected.double()) < 0.1


def test_quantize_changes_nothing_where_it_fails():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    torch.nn.init.constant_(model[1].weight, float("nan"))
    with pytest.raises(binq.NonFiniteError) as caught:
        binq.torch.quantize_(model, "int4", 32)
    assert "in module '1'" in caught.value.__notes__
    assert [type(m) for m in model] == [torch.nn.Linear] * 2
    with pytest.raises(ValueError, match="activations must be one of"):
        binq.torch.quantize_(model, "int4", 32, activations="int5")
    with pytest.raises(TypeError, match="return_bias"):
        binq.torch.quantize_(model, "int4", 32, return_bias=True)


# What is refused.


def test_devices(packed):
    for device in ("cuda", {"": 0}, "meta"):
        with pytest.raises(ValueError, match="device_map must be 'cpu'"):
            transformers.AutoModelForCausalLM.from_pretrained(packed, device_map=device)
    for device in ("cpu", "auto", {"": "cpu"}):
        transformers.AutoModelForCausalLM.from_pretrained(packed, device_map=device)


def test_weights_that_the_folder_lacks(packed):
    name = "model.layers.1.mlp.down_proj.weight"
    rewrite(packed, lambda tensors: tensors.pop(name))
    with pytest.raises(FormatError, match=f"1 weights of Qwen3ForCausalLM are not in .*{name}"):
        binq.torch.load(packed)


def test_a_missing_expert(tmp_path):
    packed = convert("qwen3_moe", tmp_path)
    name = "model.layers.0.mlp.experts.2.up_proj.weight"
    rewrite(packed, lambda tensors: tensors.pop(name))
    with pytest.raises(FormatError, match=r"layers.0.mlp.experts: up_proj has experts .0, 1, 3"):
        binq.torch.load(packed)


def test_weights_of_another_shape(packed):
    name = "model.layers.1.mlp.down_proj.weight"

    def shorten(tensors):
        tensors[name] = tensors[name][:32]

    rewrite(packed, shorten)
    with pytest.raises(ValueError, match=f"{name} must have shape .64, 96., got .*32, 96"):
        binq.torch.load(packed)


def test_kept_weights_of_another_format(packed):
    name = "model.layers.1.mlp.down_proj.weight"

    def keep(tensors):
        import ml_dtypes

        tensors[name] = tensors[name].dequantize().astype(ml_dtypes.float8_e4m3fn)

    rewrite(packed, keep)
    with pytest.raises(UnsupportedFormatError, match=f"{name}: kept as F8_E4M3"):
        binq.torch.load(packed)


def test_a_folder_without_architectures(packed):
    config = json.loads((packed / "config.json").read_text())
    for names in ([], ["NoSuchModel"]):
        (packed / "config.json").write_text(json.dumps(config | {"architectures": names}))
        with pytest.raises(ValueError, match=r"architectures in config\.json must name a class"):
            binq.torch.load(packed)


def test_arguments_of_save_pretrained(packed, tmp_path):
    model = binq.torch.load(packed)
    for arguments in ({"push_to_hub": True}, {"variant": "fp16"}, {"state_dict": {"a": 1}}):
        with pytest.raises(ValueError, match=f"{next(iter(arguments))} is not for packed models"):
            model.save_pretrained(tmp_path / "saved", **arguments)
    with pytest.raises(ValueError, match="max_shard_size must be bytes or text such as '5GB'"):
        model.save_pretrained(tmp_path / "saved", max_shard_size="five")


def test_other_models_are_saved_as_ever(tmp_path):
    make("qwen3").save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()


def test_fewer_shards_replace_more(packed, tmp_path):
    model = binq.torch.load(packed)
    expected = logits(model)
    model.save_pretrained(tmp_path / "saved", max_shard_size=20_000)
    model.save_pretrained(tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) == 1
    model.save_pretrained(packed, max_shard_size=20_000)  # over what it is mapped from
    assert torch.equal(logits(model), expected)
    assert torch.equal(logits(binq.torch.load(packed)), expected)
