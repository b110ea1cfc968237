"""The report: totals, table, JSON and picture."""

import json
import math

import pytest
from checkpoints.models import bonsai_gguf

import binq
from binq.cli import main
from binq.convert.inspect import inspect, saved_report
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
    assert lines[0].split() == ["tensor", "shape", "format", "bits", "after", "SQNR", "dB"]
    assert "20.50" in lines[1]
    assert "inf" in lines[2]
    assert "scalar" in lines[4]
    assert lines[6:8] == ["1 of them: norms are small", "1 of them: unknown"]
    assert lines[-1].startswith("5 tensors: 2.18 kB -> 484 B")
    assert lines[-1].endswith("2.0 s, 1.09 kB a second")
    assert str(report(seconds=2.0)).endswith("bits a weight, 2.0 s")
    assert "of memory; nothing was written" in str(report(dry_run=True, peak_bytes=10**9))


def test_tables_fit_80_columns():
    long = "model.language_model.layers.{}.linear_attn.in_proj_qkv.weight"
    tensors = [
        TensorReport(long.format(n), (248_320, 12_288), "int4 g128 exact", "linear", 10**12,
                     10**11, "", 16.71, 0.1, 3, 0, 1.0)
        for n in range(3)
    ]  # fmt: skip
    lines = str(report(tensors)).splitlines()
    assert max(map(len, lines[:4])) <= 80
    assert lines[1].startswith("…")
    assert lines[1].split()[0].endswith(".in_proj_qkv")
    assert max(map(len, lines)) <= 100


def rated(*decibels, **more):
    return report(
        [
            TensorReport(f"m.{n}.weight", (8, 64), "int4 g64", "linear", 1024, 272, "", db, **more)
            for n, db in enumerate(decibels)
        ]
    )


def test_the_quality_of_all_weights_is_said_and_rated():
    quality = rated(20.0, 10.0, math.inf).quality
    noise = (10**-2.0 + 10**-1.0) / 3
    assert quality.total == pytest.approx(-10 * math.log10(noise))
    assert (quality.mean, quality.worst.name, quality.exact) == (15.0, "m.1.weight", 1)
    assert quality.rating == "fair"
    ratings = [rated(db).quality.rating for db in (40.0, 30.0, 20.0, 16.0, 12.0, 7.0)]
    assert ratings == ["excellent", "excellent", "good", "good", "fair", "poor"]
    text = str(rated(20.0, 10.0, math.inf))
    assert "SQNR of packed weights: 14.36 dB in all, mean 15.00, worst 10.00\n" in text
    assert "  worst: m.1.weight\n  1 more tensors are exact\n" in text
    assert "  fair: products are off by about 19% of their norm,\n" in text
    assert "all exact: nothing was lost" in str(rated(math.inf))
    assert rated(math.inf).quality.total == math.inf
    assert report([]).quality.lines() == []
    # Louder weights count for more.
    loud = rated(20.0, 10.0)
    loud.tensors[0].signal, loud.tensors[1].signal = 99.0, 1.0
    assert loud.quality.total == pytest.approx(10 * math.log10(100 / (0.99 + 0.1)))


def test_the_report_lies_in_the_folder_and_inspect_reads_it(source, tmp_path, capsys):
    target = tmp_path / "target"
    made = binq.quantize_checkpoint(source, target, "int4", group_size=64)
    saved = json.loads((target / "binq-report.json").read_text(encoding="utf-8"))
    assert saved["sqnr"] == made.quality.to_dict()
    assert saved["bytes_after"] == made.bytes_after
    assert [t["sqnr_db"] for t in saved["tensors"]] == [t.sqnr_db for t in made.tensors]
    # Nothing that differs from run to run.
    assert not {"seconds", "source", "target", "peak_bytes"} & set(saved)
    assert "seconds" not in saved["tensors"][0]
    assert main(["inspect", str(target)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["tensor", "shape", "format", "bits", "size", "SQNR", "dB"]
    assert max(map(len, lines)) <= 80
    assert made.quality.lines()[0] in lines
    worst = next(line for line in lines if line.split()[0] == made.quality.worst.name)
    assert worst.endswith(f"{made.quality.worst.sqnr_db:.2f}")
    assert main(["inspect", str(target), "--json"]) == 0
    entries = {e["name"]: e for e in json.loads(capsys.readouterr().out)}
    assert entries[made.quality.worst.name]["sqnr_db"] == made.quality.worst.sqnr_db
    assert entries["lm_head.weight"]["sqnr_db"] is None


def test_a_folder_without_its_report_is_shown_and_a_damaged_report_is_named(source, tmp_path):
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target)
    report_file = target / "binq-report.json"
    for text in ("[", "[]", '{"tensors": [1]}', '{"tensors": [{"exact": false}]}'):
        report_file.write_text(text)
        with pytest.raises(binq.FormatError, match=r"binq-report\.json: no report of binq"):
            saved_report(target)
    report_file.unlink()
    assert saved_report(target) == []
    assert {entry.sqnr_db for entry in inspect(target)} == {None}


def test_inspect_shows_gguf_files(tmp_path):
    path = bonsai_gguf(tmp_path / "model").path
    assert {entry.format for entry in inspect(path)} >= {"Q1_0", "F32"}


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


@pytest.mark.parametrize("decibels", [-3000.0, -math.inf, math.nan])
def test_errors_beyond_all_floats_are_reported_as_such(decibels):
    """As of weights whose signal is tiny beside their noise: found by the fuzzer."""
    tensors = [
        TensorReport("a", (2, 32), "int4 g32", "linear", 128, 64, sqnr_db=d, signal=s)
        for d, s in ((20.0, 1e-300), (decibels, 1e-20))
    ]
    report = Report("s", "t", tensors)
    assert "poor" in str(report)
    assert json.loads(report.to_json())
