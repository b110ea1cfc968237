"""Published 1-bit weights through binq and out again: the bytes of the publisher's own files."""

import os
from pathlib import Path

import numpy as np
import pytest

import binq
from binq.files.gguf import GgufFile

pytestmark = pytest.mark.interop

ROOT = os.environ.get("BINQ_TINY_CHECKPOINTS")


@pytest.mark.skipif(not ROOT, reason="BINQ_TINY_CHECKPOINTS names no folder")
@pytest.mark.parametrize("name", ["bonsai_8b_gguf", "bonsai_8b_mlx_1bit", "bonsai_8b_unpacked"])
def test_bonsai_becomes_its_own_gguf_file(tmp_path, name):
    source = Path(ROOT) / name
    embeddings = {"embeddings": "binary"} if name == "bonsai_8b_unpacked" else {}
    binq.quantize_checkpoint(source, tmp_path / "packed", "binary", **embeddings)
    binq.export_checkpoint(tmp_path / "packed", tmp_path / "m.gguf", to="gguf")
    (published,) = (Path(ROOT) / "bonsai_8b_gguf").glob("*.gguf")
    with GgufFile(published) as theirs, GgufFile(tmp_path / "m.gguf") as ours:
        assert set(theirs) == set(ours)
        for tensor in theirs:
            one, other = theirs.info(tensor), ours.info(tensor)
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            assert np.array_equal(
                theirs.read_bytes(tensor, 0, one.nbytes), ours.read_bytes(tensor, 0, other.nbytes)
            )
