"""Whatever config.json says, a checkpoint opens or is refused by binq's own errors."""

import copy
import json

import hypothesis.strategies as st
import pytest
from checkpoints.models import MODELS
from hypothesis import given, settings

from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 300),
    st.just(2**70),
    st.floats(allow_nan=False),
    st.sampled_from([1.0, 2.0, 4.0, 8.0, 32.0, 64.0, 128.0]),
    st.sampled_from(["", "4", "gptq", "awq", "fp8", "mxfp4", "bitnet", "compressed-tensors"]),
    st.lists(st.integers(0, 200), max_size=3),
    st.dictionaries(st.sampled_from(["bits", "group_size", "weights", "format"]), st.integers()),
)


def places(value, path=()):
    """Yields the path of every value within an object."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from places(inner, (*path, key))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The path and configuration of each model."""
    root = tmp_path_factory.mktemp("models")
    paths = [MODELS[name](root / name).path for name in sorted(MODELS) if name != "bonsai_gguf"]
    return [(path, json.loads((path / "config.json").read_text())) for path in paths]


@settings(max_examples=100)
@given(data=st.data())
def test_any_setting_may_be_wrong(folders, data):
    path, config = data.draw(st.sampled_from(folders), "model")
    config = copy.deepcopy(config)
    for _ in range(data.draw(st.integers(1, 2))):
        *above, last = data.draw(st.sampled_from(list(places(config))), "place")
        inner = config
        for key in above:
            inner = inner[key]
        inner[last] = data.draw(VALUES, "value")
    (path / "config.json").write_text(json.dumps(config))
    try:
        with Checkpoint(path) as source:
            for tensor in logical_tensors(source):
                if tensor.quantize:
                    tensor.read_rows(source, 0, 0, 1)
    except (FormatError, UnsupportedFormatError):
        pass
