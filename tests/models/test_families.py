"""Every family, whole: names, roles and policy, exact values, lossless forms, pickling."""

import json
import pickle

import numpy as np
import pytest
from checkpoints.models import MODELS

import binq
from binq.convert.verify import verify
from binq.errors import FormatError
from binq.files.checkpoint import Checkpoint
from binq.formats.scales import scale_dtype
from binq.models import UNKNOWN, logical_tensors


@pytest.fixture(params=sorted(MODELS))
def written(request, tmp_path):
    return MODELS[request.param](tmp_path / "model")


def test_names_and_policy_are_those_of_the_family(written):
    with Checkpoint(written.path) as source:
        tensors = {tensor.name: tensor for tensor in logical_tensors(source)}
        assert tensors.keys() == written.values.keys()
        assert {name for name, tensor in tensors.items() if tensor.quantize} == written.quantized
        stored = [part for tensor in tensors.values() for part in tensor.stored]
    assert sorted(stored) == sorted(source.names), "a stored tensor is unread or read twice"
    for tensor in tensors.values():
        assert tensor.reason != UNKNOWN
        assert tensor.quantize or tensor.reason


def test_every_value_is_exact(written):
    with Checkpoint(written.path) as source:
        for tensor in logical_tensors(source):
            values = tensor.read(source)
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values, written.values[tensor.name], tensor.name)


def test_any_block_of_rows_is_the_same_rows(written):
    with Checkpoint(written.path) as source:
        for tensor in logical_tensors(source):
            if len(tensor.shape) < 2:
                continue
            expected = written.values[tensor.name].reshape(tensor.matrices, *tensor.shape[-2:])
            rows = tensor.shape[-2]
            for start, stop in ((0, 1), (rows // 3, rows // 3 + 7), (rows - 1, rows), (2, 2)):
                stop = min(stop, rows)
                start = min(start, stop)
                matrix = tensor.matrices - 1
                part = tensor.read_rows(source, matrix, start, stop)
                np.testing.assert_array_equal(part, expected[matrix, start:stop], tensor.name)


def test_lossless_forms_are_lossless(written):
    with Checkpoint(written.path) as source:
        for tensor in logical_tensors(source):
            exact = tensor.exact_format(source) if tensor.quantize else None
            if exact is None:
                continue
            expected = written.values[tensor.name].reshape(tensor.matrices, *tensor.shape[-2:])
            packed = tensor.exact_rows(source, exact, 0, 0, tensor.shape[-2])
            assert packed._data.packing == exact.packing
            assert packed.scales.dtype == scale_dtype(exact.scale_dtype)
            np.testing.assert_array_equal(packed.dequantize(), expected[0], tensor.name)


def test_tensors_and_checkpoint_survive_pickling(written):
    with Checkpoint(written.path) as source:
        tensors = logical_tensors(source)
        again = pickle.loads(pickle.dumps(source))
        assert again.config == source.config
        assert pickle.loads(pickle.dumps(tensors)) == tensors
        tensor = next(tensor for tensor in tensors if tensor.quantize)
        np.testing.assert_array_equal(
            pickle.loads(pickle.dumps(tensor)).read(again), written.values[tensor.name]
        )
        again.close()


@pytest.mark.parametrize("format", ["binary", "ternary", "int4"])
def test_every_family_is_converted_and_says_what_it_is(written, tmp_path, format):
    """The source's own settings of quantization, which MLX has twice, would mislead a loader."""
    target = tmp_path / "target"
    binq.quantize_checkpoint(written.path, target, format, group_size=32)
    assert list(verify(target, written.path)) == []
    config = json.loads((target / "config.json").read_text())
    settings = config.pop("quantization_config")
    assert (settings["quant_method"], settings["format"]) == ("binq", format)
    assert not {"quantization", "compression_config"} & config.keys()


def test_rows_outside_the_matrix_are_refused(written):
    with Checkpoint(written.path) as source:
        tensor = next(tensor for tensor in logical_tensors(source) if tensor.quantize)
        for matrix, start, stop in ((0, 0, 10**6), (0, -1, 1), (99, 0, 1), (0, 5, 4)):
            with pytest.raises(IndexError, match=r"not within|no matrix"):
                tensor.read_rows(source, matrix, start, stop)


@pytest.mark.parametrize("model", ["gpt_oss_bf16", "llama4", "gemma4_moe"])
def test_experts_that_lie_the_other_way_are_refused(tmp_path, model):
    """A quantizer that grouped them along the wrong axis would get every weight wrong."""
    written = MODELS[model](tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.get("text_config", config)["hidden_size"] = 192
    (tmp_path / "config.json").write_text(json.dumps(config))
    with (
        Checkpoint(written.path) as source,
        pytest.raises(FormatError, match=r"experts.*expected 192 (in|out)puts, the hidden_size"),
    ):
        logical_tensors(source)


@pytest.mark.parametrize(("layers", "drafting"), [(1, None), (1, 5), (0, 1), (2, None), (None, 1)])
def test_layers_beyond_the_last_draft_tokens(tmp_path, layers, drafting):
    MODELS["deepseek"](tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"num_hidden_layers": layers, "num_nextn_predict_layers": drafting}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with Checkpoint(tmp_path) as source:
        roles = {tensor.name: tensor.role for tensor in logical_tensors(source)}
    for index in (0, 1):
        role = roles[f"model.layers.{index}.self_attn.o_proj.weight"]
        assert role == ("mtp" if layers is not None and index >= layers else "linear")
