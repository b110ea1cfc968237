"""GGUF models that are split over several files, as hubs have everything above 50 GB."""

from pathlib import Path

import numpy as np
import pytest
from checkpoints.fixtures import Written, gguf_file, gguf_tensor

from binq import quantize_checkpoint
from binq.convert.verify import verify
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

NAMES = ("blk.0.ffn_up.weight", "blk.1.ffn_up.weight", "blk.2.ffn_up.weight")
OPEN = Path("/proc/self/fd")


def part(n, count=3):
    return f"model-Q4_0-{n:05d}-of-{count:05d}.gguf"


def split(folder, **changes):
    """Writes three parts, whose metadata ``changes`` replaces in the second one."""
    folder.mkdir(exist_ok=True)
    written = Written(folder)
    for n, name in enumerate(NAMES):
        metadata = {"split.no": n, "split.count": 3, "split.tensors.count": 3}
        if n == 0:
            metadata["general.architecture"] = "deepseek2"
        tensors = {name: gguf_tensor(written, name, "Q4_0", (35, 64))}
        if n == 1:
            metadata |= changes
        (folder / part(n + 1)).write_bytes(gguf_file(metadata, tensors))
    return written


@pytest.mark.parametrize("named", ["", part(1), part(2), part(3)])
def test_all_parts_are_one_model(tmp_path, named):
    written = split(tmp_path / "s")
    with Checkpoint(tmp_path / "s" / named) as source:
        assert source.config["general.architecture"] == "deepseek2"
        assert source.files == (part(1), part(2), part(3))
        for tensor in logical_tensors(source):
            np.testing.assert_array_equal(tensor.read(source), written.values[tensor.name])
        assert list(source) == list(NAMES)
    report = quantize_checkpoint(tmp_path / "s" / named, tmp_path / "t")
    assert [t.format for t in report.tensors] == ["int4 g32 exact"] * 3
    assert list(verify(tmp_path / "t", tmp_path / "s")) == []


def test_a_missing_part_is_named(tmp_path):
    split(tmp_path)
    (tmp_path / part(2)).unlink()
    with pytest.raises(FileNotFoundError, match=f"{part(2)}.*one of 3 parts"):
        Checkpoint(tmp_path / part(1))
    with pytest.raises(FileNotFoundError, match=f"{part(2)}.*one of 3 parts"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"split.no": 2}, "part 3 of 3, its name part 2 of 3"),
        ({"split.count": 4}, "part 2 of 4, its name part 2 of 3"),
        ({"split.count": "3"}, "split.count is '3'"),
        ({"split.no": 1 << 20}, "split.no is 1048576"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(tmp_path, changes, reason):
    split(tmp_path, **changes)
    with pytest.raises(FormatError, match=reason):
        Checkpoint(tmp_path / part(1))


def test_a_tensor_in_two_parts_and_a_wrong_count_are_refused(tmp_path):
    split(tmp_path)
    first = (tmp_path / part(1)).read_bytes()
    (tmp_path / part(1)).write_bytes(first.replace(NAMES[0].encode(), NAMES[1].encode()))
    with pytest.raises(FormatError, match=f"{NAMES[1]}.*is in .*too"):
        Checkpoint(tmp_path / part(1))
    count = b"split.tensors.count\x04\0\0\0"
    (tmp_path / part(1)).write_bytes(first.replace(count + b"\x03", count + b"\x04"))
    with pytest.raises(FormatError, match=r"3 tensors in all parts.*says 4"):
        Checkpoint(tmp_path / part(1))


def test_a_part_of_another_name_is_refused_with_what_to_do(tmp_path):
    split(tmp_path)
    (tmp_path / part(1)).rename(tmp_path / "first.gguf")
    with pytest.raises(UnsupportedFormatError, match=r"must end in -00001-of-00003\.gguf"):
        Checkpoint(tmp_path / "first.gguf")


@pytest.mark.skipif(not OPEN.is_dir(), reason="counts open files in /proc")
def test_refusals_leave_no_file_open(tmp_path):
    split(tmp_path, **{"split.no": 2})
    before = len(list(OPEN.iterdir()))
    with pytest.raises(FormatError):
        Checkpoint(tmp_path / part(1))
    assert len(list(OPEN.iterdir())) == before
