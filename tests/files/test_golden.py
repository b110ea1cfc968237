"""Files of every released format version load for ever, with the values they were made with."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors

import binq
from binq import reference
from binq.reference.rotation import rotate_back

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = sorted(GOLDEN.glob("*.safetensors"))


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_there_is_a_file_of_every_version(version):
    path = GOLDEN / f"v{version}.safetensors"
    with safetensors.safe_open(path, "np") as file:
        assert json.loads(file.metadata()["binq"])["version"] == version


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_files_hold_the_values_they_were_made_with(path):
    values = np.load(path.with_suffix(".npz"), allow_pickle=False)
    tensors = binq.load_file(path)
    assert set(tensors) == set(values.files)
    for name, tensor in tensors.items():
        if isinstance(tensor, binq.QuantizedArray):
            np.testing.assert_array_equal(tensor.dequantize(), values[name])
        else:
            np.testing.assert_array_equal(tensor.astype(np.float32), values[name])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_definition_reads_golden_files_as_the_library_does(path):
    for tensor in binq.load_file(path).values():
        if isinstance(tensor, binq.QuantizedArray) and tensor.ndim == 2:
            again = reference.dequantize(
                tensor.packed,
                tensor.scales,
                tensor.offsets if tensor.zero_points is None else tensor.zero_points,
                format=tensor.format,
                shape=tensor.shape,
                group_size=tensor.group_size,
            )
            if tensor.rotation is not None:
                block, signs = tensor.rotation.block, tensor.rotation.signs(tensor.shape[1])
                again = rotate_back(again, signs, block)
            np.testing.assert_array_equal(tensor.dequantize(), again)
