"""README.md of a packed folder: true numbers, a front matter, the source's own README kept."""

import numpy as np
import pytest
from checkpoints.folders import names, one_file

import binq

W = {
    "model.embed_tokens.weight": np.random.default_rng(1).standard_normal((64, 128)),
    "model.layers.0.mlp.up_proj.weight": np.random.default_rng(0).standard_normal((64, 128)),
    "model.layers.0.mlp.down_proj.weight": np.tile([1.0, -1.0], (128, 32)),
}
THEIRS = """---
license: apache-2.0
base_model: someone/before
base_model_relation: finetune
language:
- en
tags:
- chat
---
# Their model
"""


@pytest.fixture
def source(tmp_path):
    weights = {name: values.astype(np.float32) for name, values in W.items()}
    return one_file(tmp_path / "a [model]", weights)


def text(path):
    return path.read_text(encoding="utf-8")


def row(card, start):
    (line,) = (line for line in card.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_numbers_are_those_of_the_report(source, tmp_path):
    report = binq.quantize_checkpoint(source, tmp_path / "t", "int4", rules=["*down*=binary"])
    card = text(tmp_path / "t/README.md")
    assert card.startswith("---\nlibrary_name: transformers\ntags:\n- binq\n---\n")
    assert "# a  model , packed by binq" in card
    int4 = next(t for t in report.tensors if "up_proj" in t.name)
    assert f"| 4.125 | {int4.bytes_after / 1000:.2f} kB | {int4.sqnr_db:.2f} |" in card
    assert "| 1 | 8,192 | binary g64 | 1.250 | 1.28 kB | exact |" in card
    assert row(card, "kept as it was")[1:4] == ["1", "8,192", "F32"]
    assert 'binq.load("FOLDER")' in card
    assert "from_pretrained" not in card  # config.json names no class
    again = tmp_path / "again"
    binq.quantize_checkpoint(source, again, "int4", rules=["*down*=binary"])
    assert text(again / "README.md") == card


def test_the_readme_of_the_source_is_kept(source, tmp_path):
    (source / "README.md").write_text(THEIRS)
    binq.quantize_checkpoint(source, tmp_path / "t")
    assert text(tmp_path / "t/README.source.md") == THEIRS
    card = text(tmp_path / "t/README.md")
    front = card.split("---\n")[1].splitlines()
    assert front == [
        "library_name: transformers", "license: apache-2.0", "language:", "- en", "tags:", "- binq",
        "- chat",
    ]  # fmt: skip
    assert "[README.source.md](README.source.md)" in card
    assert binq.quantize_checkpoint(source, tmp_path / "t", resume=True).bytes_done == 0
    binq.dequantize_checkpoint(tmp_path / "t", tmp_path / "plain")
    assert text(tmp_path / "plain/README.md") == THEIRS
    assert "README.source.md" not in names(tmp_path / "plain")


def test_two_readmes_stay_what_they_are(source, tmp_path):
    (source / "README.md").write_text(THEIRS)
    (source / "README.source.md").write_text("older")
    binq.quantize_checkpoint(source, tmp_path / "t")
    assert text(tmp_path / "t/README.md") == THEIRS
    assert text(tmp_path / "t/README.source.md") == "older"


def test_a_readme_that_is_no_text_does_no_harm(source, tmp_path):
    (source / "README.md").write_bytes(b"---\n\xff: \x00\n" * 9)
    binq.quantize_checkpoint(source, tmp_path / "t")
    assert "packed by binq" in text(tmp_path / "t/README.md")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("models--Org--Model-1.7B/snapshots/0123", "Org/Model-1.7B"),
        ("plain", ""),
    ],
)
def test_the_model_on_the_hub_is_told_by_its_cache(tmp_path, folder, name):
    (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
    source = one_file(tmp_path / folder, {"model.norm.weight": np.ones(4, np.float32)})
    binq.quantize_checkpoint(source, tmp_path / "t")
    card = text(tmp_path / "t/README.md")
    assert ("base_model:" in card) == bool(name)
    if name:
        assert f"base_model: {name}\nbase_model_relation: quantized\n" in card
        assert f"[{name}](https://huggingface.co/{name})" in card
