"""Rules: what they spell, and what they refuse."""

import numpy as np
import pytest
from checkpoints import models

import binq
from binq.convert.rules import check_choice_of, parse_choice, parse_rules

DEFAULT = check_choice_of("int4")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("int4", check_choice_of("int4", 128, "mse", True)),
        ("ternary:g32", check_choice_of("ternary", 32, "mse", True)),
        ("binary:row", check_choice_of("binary", None, "mse", True)),
        ("binary:g256:absmean:asymmetric", check_choice_of("binary", 256, "absmean", False)),
        ("int4:absmax:g64", check_choice_of("int4", 64, "absmax", True)),
    ],
)
def test_a_choice_is_what_it_spells(text, choice):
    assert parse_choice(text, DEFAULT) == choice


def test_what_is_left_out_is_as_for_all():
    default = check_choice_of("int4", 64, "absmax", False)
    assert parse_choice("int4", default) == default
    # absmax and zero points do not exist here: the format's own way.
    assert parse_choice("ternary", default) == check_choice_of("ternary", 64, "mse", True)
    assert parse_choice("binary", default) == check_choice_of("binary", 64, "mse", False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int5", "format must be one of"),
        ("", "format must be one of"),
        ("int4:", "method must be one of"),
        ("int4:g", "method must be one of"),
        ("int4:g7", "group_size must be"),
        ("int4:g-32", "method must be one of"),
        ("int4:absmean", "method must be one of"),
        ("ternary:asymmetric", "symmetric must be True"),
    ],
)
def test_a_wrong_choice_is_quoted(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_choice(text, DEFAULT)
    assert repr(text) in str(caught.value)


def test_rules_keep_their_order_and_match_whole_names():
    rules = parse_rules(["*.up.weight=ternary:g32", "a[0-9]?=keep"], DEFAULT)
    assert [rule.choice for rule in rules] == [check_choice_of("ternary", 32), None]
    assert rules[0].matches("x.up.weight")
    assert not rules[0].matches("x.up.weight.more")
    assert not rules[0].matches("x.UP.weight")
    assert rules[1].matches("a1b")


@pytest.mark.parametrize("text", ["", "=", "*=", "=int4", "no-equals"])
def test_a_malformed_rule_is_quoted(text):
    with pytest.raises(ValueError, match="must be GLOB=FORMAT") as caught:
        parse_rules([text], DEFAULT)
    assert repr(text) in str(caught.value)


def test_a_choice_reads_well():
    assert str(check_choice_of("int4", None, "mse", False)) == "int4 row asymmetric"
    assert str(check_choice_of("binary", 32)) == "binary g32"


def test_options_are_checked_for_any_model(tmp_path):
    """Also for one that has neither embeddings nor head."""
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    w = np.ones((32, 64), np.float32)
    name = "model.layers.0.mlp.up_proj.weight"
    binq.save_file({name: w}, tmp_path / "model.safetensors")
    target = tmp_path / "t"
    with pytest.raises(ValueError, match="embeddings 'int5': format must be one of"):
        binq.quantize_checkpoint(tmp_path, target, embeddings="int5")
    with pytest.raises(ValueError, match="lm_head 'int4:g7': group_size must be"):
        binq.quantize_checkpoint(tmp_path, target, lm_head="int4:g7")
    with pytest.raises(TypeError, match="embeddings must be a format such as"):
        binq.quantize_checkpoint(tmp_path, target, embeddings=4)


def test_two_tensors_of_one_name_are_refused_before_anything_is_written(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "qwen3"}')
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = {name: np.ones((32, 64)), f"{name}.scales": np.ones(3)}
    binq.save_file(tensors, source / "model.safetensors")
    with pytest.raises(
        binq.FormatError, match=r"two tensors would be stored as '.*\.weight\.scales'"
    ):
        binq.quantize_checkpoint(source, tmp_path / "t")
    assert not (tmp_path / "t.partial").exists()


def test_low_bit_embeddings_are_never_rounded_unasked(tmp_path):
    """Bonsai's ternary sibling: asked for in one bit, its embeddings stay ternary."""
    models.bonsai_mlx(tmp_path / "source", 2)
    ends = ("model.embed_tokens.weight", "lm_head.weight")

    def formats(**settings):
        plan = binq.quantize_checkpoint(
            tmp_path / "source", tmp_path / "t", "binary", dry_run=True, **settings
        )
        found = {t.name: t.format for t in plan.tensors}
        assert found["model.layers.0.mlp.up_proj.weight"] == "binary g128"
        return [found[name] for name in ends]

    assert formats() == ["ternary g128 exact"] * 2
    assert formats(embeddings="binary") == ["binary g128"] * 2
    assert formats(embeddings="keep") == ["U32"] * 2
    assert formats(lm_head="keep") == ["ternary g128 exact", "U32"]
    assert formats(rules=["*embed*=binary"]) == ["binary g128", "ternary g128 exact"]
