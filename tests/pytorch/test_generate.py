"""binq.run: the logits and tokens of transformers' own classes, without PyTorch."""

import json
from typing import ClassVar

import numpy as np
import pytest

import binq

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch", minversion="2.6")
transformers = pytest.importorskip("transformers", minversion="5.23")
from pytorch.tiny import TOKENS, VOCAB, folder  # noqa: E402

import binq.torch  # noqa: E402
from binq.cli import main  # noqa: E402
from binq.run import Decoder, Text, generate  # noqa: E402
from binq.run.sampling import choose  # noqa: E402

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CASES = {
    "qwen3": ("qwen3", {}),
    "qwen3 tied, yarn": ("qwen3_tied", {"rope_parameters": {"rope_theta": 1e4} | YARN}),
    "qwen2": ("qwen2", {}),
    "llama": ("llama", {}),
    "mistral": ("mistral", {}),  # a window shorter than the prompt
    "llama 3": ("llama", {"rope_parameters": {"rope_theta": 1e4} | LLAMA3}),
    "linear": (
        "llama",
        {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}},
    ),
}


@pytest.fixture(params=CASES)
def packed(request, tmp_path):
    family, changes = CASES[request.param]
    source = folder(family, tmp_path / "source", **changes)
    settings = {"group_size": 32, "embeddings": "int4:g32"}
    binq.quantize_checkpoint(source, tmp_path / "packed", "int4", **settings)
    return tmp_path / "packed"


@pytest.mark.filterwarnings("ignore")
def test_logits_and_tokens(packed, monkeypatch):
    """Also where the prompt comes in pieces and the cache grows."""
    model = binq.torch.load(packed, activations="float32").dequantize()
    prompt = [*TOKENS[0].tolist()] * 3
    for chunk in (256, 5):
        monkeypatch.setattr("binq.run.decoder.CHUNK", chunk)
        decoder = Decoder(packed, "float32")
        tokens = prompt
        for _ in range(8):
            with torch.no_grad():
                expected = model(input_ids=torch.tensor([tokens])).logits[0, -1].numpy()
            got = decoder(tokens if tokens is prompt else tokens[-1:])
            assert got.shape == (VOCAB,)
            assert np.linalg.norm(got - expected) <= 3e-6 * np.linalg.norm(expected)
            tokens = [*tokens, int(expected.argmax())]


def test_command_line(packed, capsys):
    words = ["--ids", "5,17,99", "--new", "6", "--activations", "int8"]
    assert main(["generate", str(packed), *words]) == 0
    out, err = capsys.readouterr()
    assert 1 <= len(out.split()) <= 6
    assert "3 tokens of prompt" in err


def test_sampling():
    rng = np.random.default_rng(0)
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    drawn = np.bincount([choose(logits, 1.0, 0.9, rng) for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(drawn / 4000, np.array([0.5, 0.3, 0.15, 0]) / 0.95, atol=0.03)
    assert choose(logits, 0.0, 0.9, rng) == 0
    assert {choose(logits, 1.0, 0.1, rng) for _ in range(50)} == {0}
    assert {choose(logits, 1e-45, 1.0, rng) for _ in range(9)} == {0}
    for wrong in ({"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            generate(lambda tokens: logits, [1], 3, **wrong)


def test_what_a_user_may_get_wrong(packed, capsys):
    """Options before the text are right; the rest is told, and nothing is made."""
    words = ["generate", str(packed), "--new", "2"]
    assert main([*words, "--ids", "1,2"]) == 0
    capsys.readouterr()
    assert main([*words, "Hello"]) == 1
    assert "has no tokenizer.json" in capsys.readouterr().err
    for more in ([], ["Hello", "--ids", "1"], ["--ids", "1", "Hello"]):
        assert main([*words, *more]) == 1
        assert "give TEXT to answer, or --ids, not both" in capsys.readouterr().err
    for more in (["--seed", "-1"], ["one", "two"], ["--no-such"], ["Hello", "--top-p", "0"]):
        with pytest.raises(SystemExit):
            main([*words, *more])
    decoder = Decoder(packed)
    for tokens in ([], [-1], [VOCAB]):
        with pytest.raises(ValueError, match="tokens must be 1 or more from 0 to"):
            decoder(tokens)


def test_no_more_tokens_than_the_model_was_made_for(packed, capsys):
    room = Decoder(packed).room
    assert room == 128
    (packed / "generation_config.json").write_text("{}")
    config = json.loads((packed / "config.json").read_text()) | {"eos_token_id": None}
    (packed / "config.json").write_text(json.dumps(config))
    ids = ",".join(["5"] * (room - 3))
    assert main(["generate", str(packed), "--ids", ids]) == 0
    out, err = capsys.readouterr()
    assert len(out.split()) == 3
    assert "stopped at 128 tokens" in err
    assert main(["generate", str(packed), "--ids", f"{ids},5,5,5"]) == 1
    assert "the prompt must leave room" in capsys.readouterr().err


def test_a_stream_is_the_whole_text():
    """Of bytes, of which characters have up to four, however long the answer is."""
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    files = {"tokenizer.json": made.to_str()}

    class Files:
        config: ClassVar = {}

        def text(self, name):
            return files.get(name)

    text = "Größe 漢字 🙂🙂 end. " * 20 + "🙂"
    words = Text(Files())
    ids = words.encode(text, chat=False)
    pieces = list(words.stream(ids))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(words.stream(ids[:-1])) == text[:-1] + "\ufffd"


def test_chat_template_and_streamed_text(packed, capsys):
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("jinja2")
    vocabulary = {f"w{n}": n for n in range(VOCAB)} | {"<unk>": VOCAB}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.save(str(packed / "tokenizer.json"))
    template = "{% for m in messages %}w7 {{ m.content }} {{ eos_token }}{% endfor %}"
    settings = {"chat_template": template, "eos_token": {"content": "w2"}}
    (packed / "tokenizer_config.json").write_text(json.dumps(settings))
    assert Text(binq.load(packed)).templated("w3 w4") == "w7 w3 w4 w2"
    assert main(["generate", str(packed), "w3 w4", "--new", "4"]) == 0
    out, err = capsys.readouterr()
    assert all(word.startswith("w") for word in out.split())
    assert "4 tokens of prompt" in err
    assert main(["generate", str(packed), "w3 w4", "--raw", "--new", "4"]) == 0
    assert "2 tokens of prompt" in capsys.readouterr().err


def test_other_folders_are_refused(packed, tmp_path, capsys):
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(config | {"model_type": "gemma4"}))
    with pytest.raises(binq.UnsupportedFormatError, match="'gemma4' is not among"):
        Decoder(packed)
    (packed / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    with pytest.raises(binq.UnsupportedFormatError, match="hidden_act must be silu, got gelu"):
        Decoder(packed)
    (packed / "config.json").write_text(json.dumps(config))
    assert main(["generate", str(packed), "Hello"]) == 1
    assert "has no tokenizer.json" in capsys.readouterr().err
    assert main(["generate", str(packed), "--ids", "1,999999"]) == 1
    assert f"tokens must be 1 or more from 0 to {VOCAB - 1}, got 999999" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="not a checkpoint"):
        Decoder(tmp_path)


def test_some_weights_packed_and_some_not(packed, tmp_path):
    """As a rule says: of query, key and value, which are one job otherwise, and of the MLP."""
    plain = tmp_path / "plain"
    binq.dequantize_checkpoint(packed, plain, dtype="float32")
    rules = ["*.v_proj.weight=keep", "*.down_proj.weight=keep"]
    settings = {"group_size": 32, "embeddings": "int4:g32", "rules": rules}
    binq.quantize_checkpoint(plain, tmp_path / "mixed", "int4", **settings)
    tokens = TOKENS[0].tolist()
    mixed = Decoder(tmp_path / "mixed", "float32")
    kinds = {type(w) for layer in mixed.layers for w in layer["qkv"]}
    assert kinds == {binq.QuantizedArray, np.ndarray}
    expected = Decoder(packed, "float32")(tokens)
    error = np.linalg.norm(mixed(tokens) - expected)
    assert error <= 3e-6 * np.linalg.norm(expected)


def test_plain_weights(packed, tmp_path):
    """Of Hugging Face, not packed: products of floats."""
    binq.dequantize_checkpoint(packed, tmp_path / "plain", dtype="float32")
    tokens = TOKENS[0].tolist()
    expected = Decoder(packed, "float32")(tokens)
    got = Decoder(tmp_path / "plain")(tokens)
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6 * np.linalg.norm(expected))


def test_gguf(packed, tmp_path):
    """Names, order of rows and configuration come of the file alone."""
    try:
        binq.export_checkpoint(packed, tmp_path / "m.gguf", to="gguf")
    except binq.errors.UnsupportedFormatError as error:
        pytest.skip(str(error))
    # The file says of no window, which the export notes.
    tokens = TOKENS[0].tolist()[: Decoder(packed).window]
    expected = Decoder(packed, "float32")(tokens)
    decoder = Decoder(tmp_path / "m.gguf", "float32")
    assert decoder.layers[0]["down"][0].format == "int4"
    got = decoder(tokens)
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6 * np.linalg.norm(expected))
