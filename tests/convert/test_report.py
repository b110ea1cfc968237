"""The report: totals, table, JSON and picture."""

import json
import math

import pytest

from binq.convert.report import Report
from binq.convert.tables import readable
from binq.convert.tensor_report import TensorReport
from binq.models.family import UNKNOWN


def report(tensors=None, **more):
    if tensors is None:
        tensors = [
            TensorReport("m.layers.0.up.weight", (8, 64), "int4 g64", "linear", 1024, 272, "", 20.5,
                         0.1, 3, 0, 1.0),
            TensorReport("m.layers.1.up.weight", (8, 64), "binary g64", "linear", 1024, 80, "",
                         math.inf, 0.0, 0, 0, 1.0),
            TensorReport("m.norm.weight", (64,), "BF16", "norm", 128, 128, "norms are small"),
            TensorReport("m.scalar", (), "F32", "other", 4, 4, "unknown"),
            TensorReport("m.empty", (0, 5), "F32", "other", 0, 0),
        ]  # fmt: skip
    return Report("source", "target", tensors, **more)


def test_totals_are_sums():
    r = report()
    assert (r.bytes_before, r.bytes_after) == (2180, 484)
    assert r.bits_per_weight == 8 * 484 / (1024 + 64 + 1)
    assert [t.kept for t in r.tensors] == [False, False, True, True, True]
    assert r.tensors[-1].bits_per_weight == 0
    assert report([]).bits_per_weight == 0


def test_the_table_has_a_line_for_each_tensor_and_a_total():
    lines = str(report(seconds=2.0, bytes_done=2180)).splitlines()
    assert len(lines) == 7
    assert lines[0].split()[:4] == ["tensor", "shape", "format", "bits/weight"]
    assert "20.50" in lines[1]
    assert "inf" in lines[2]
    assert "scalar" in lines[4]
    assert lines[-1].startswith("5 tensors: 2.18 kB -> 484 B")
    assert lines[-1].endswith("2.0 s, 1.09 kB a second")
    assert str(report(seconds=2.0)).endswith("bits a weight, 2.0 s")
    assert "of memory; nothing was written" in str(report(dry_run=True, peak_bytes=10**9))


def test_matrices_that_no_family_knows_are_told_of():
    tensors = [
        TensorReport("m.odd.weight", (8, 64), "BF16", "other", 1024, 1024, UNKNOWN),
        TensorReport("m.odd.more", (8, 64), "BF16", "other", 1024, 1024, UNKNOWN),
        TensorReport("m.odd.vector", (64,), "BF16", "other", 128, 128, UNKNOWN),
    ]
    text = str(report(tensors)).splitlines()[-1]
    assert text.startswith("2 matrices (2.05 kB) were kept as they are, the first 'm.odd.weight'")
    assert report().unknown == []


def test_json_is_strict_and_complete():
    def refuse(word):
        raise AssertionError(word)

    document = json.loads(report(seconds=2.0, bytes_done=2180).to_json(), parse_constant=refuse)
    assert document["bytes_after"] == 484
    assert document["bytes_per_second"] == 1090
    first, second, third = document["tensors"][:3]
    assert (first["sqnr_db"], first["clipped"], first["kept"]) == (20.5, 3, False)
    assert second["sqnr_db"] is None
    assert not second["kept"]
    assert third["kept"]
    assert third["shape"] == [64]


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (5_000_000_000, "5.00 GB"),
     (1_400_000_000_000, "1.40 TB"), (10**16, "10000.00 TB")],
)  # fmt: skip
def test_sizes_are_readable(nbytes, text):
    assert readable(nbytes) == text


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_drawn(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"report.{suffix}"
    many = [
        TensorReport(f"m.layers.{i}.part{i % 20}.weight", (8, 64), "int4", "linear", 1024, 272, "",
                     20.0 + i % 7, 0.1, 3, 0, 1.0)
        for i in range(60)
    ]  # fmt: skip
    report(many).plot(path)
    assert path.stat().st_size > 10_000
    # Nothing that could be drawn: every tensor is exact, or there are none.
    for tensors in (report().tensors[1:], []):
        report(tensors).plot(path)
        assert path.exists()


def test_a_plan_says_what_will_be_kept():
    planned = TensorReport("m.up.weight", (8, 64), "ternary row asymmetric", "linear", 1024, 272)
    assert planned.sqnr_db is None
    assert not planned.kept
    assert TensorReport("m.norm.weight", (64,), "Q6_K", "norm", 128, 128).kept
