"""What the tests of storage schemes check: every value, the lossless form, refusals."""

import json

import numpy as np
import pytest

from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors
from binq.storage.rows import values_of

DOWN = "model.layers.0.mlp.down_proj.weight"


def check(written, name=DOWN):
    """Checks all values; returns the format of one tensor, or None, having checked it as well."""
    with Checkpoint(written.path) as source:
        for tensor in logical_tensors(source):
            np.testing.assert_array_equal(tensor.read(source), written.values[tensor.name])
            if tensor.name == name:
                found = tensor.exact_format(source)
                if found is not None:
                    rows, columns = tensor.shape[-2:]
                    each = written.values[name].reshape(-1, rows, columns)
                    for matrix in range(tensor.matrices):
                        packed = tensor.exact_rows(source, found, matrix, 0, rows)
                        np.testing.assert_array_equal(packed.dequantize(), each[matrix])
                        check_stored(source, tensor, found, matrix, packed)
    return found


def check_stored(source, tensor, exact, matrix, packed):
    """Checks that rows packed as they lie in the file are those packed by way of their codes."""
    found = tensor.exact_stored(source, exact, matrix, 0, tensor.shape[-2])
    if found is not None:
        parts = zip(found[0].parts, packed._data.parts, strict=True)
        for stored, coded in parts:
            np.testing.assert_array_equal(stored, coded)
        np.testing.assert_array_equal(values_of(found[1]), packed.dequantize())


def change(written, **settings):
    """Changes settings of quantization_config; None removes one."""
    path = written.path / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"].update(settings)
    path.write_text(json.dumps(config))


def refuse(written, error, match):
    with pytest.raises(error, match=match), Checkpoint(written.path) as source:
        logical_tensors(source)
