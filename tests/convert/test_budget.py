"""target_bpw and target_bytes: the least sum of errors that fits, as trying everything finds."""

import itertools
import json

import hypothesis.strategies as st
import numpy as np
import pytest
from checkpoints.folders import one_file
from hypothesis import given

import binq
from binq.array.packing import Packing
from binq.cli import main
from binq.convert.budget import MEASURED, Option, Trial, choose, options_of
from binq.convert.target import weighed
from binq.methods import METHODS, Gptq, Method

LAYERS = 6


@given(
    sizes=st.lists(
        st.lists(st.tuples(st.integers(1, 60), st.integers(0, 1000)), min_size=1, max_size=4),
        min_size=1,
        max_size=5,
    ),
    more=st.integers(0, 150),
)
def test_no_choice_is_better(sizes, more):
    options = [[Option(Packing("int4"), size, error / 7) for size, error in each] for each in sizes]
    budget = sum(min(o.nbytes for o in each) for each in options) + more
    chosen = choose(options, budget)
    assert all(option in each for option, each in zip(chosen, options, strict=True))
    assert sum(o.nbytes for o in chosen) <= budget
    best = min(
        sum(o.error for o in each)
        for each in itertools.product(*options)
        if sum(o.nbytes for o in each) <= budget
    )
    assert sum(o.error for o in chosen) == pytest.approx(best)


def test_a_budget_below_the_smallest():
    with pytest.raises(ValueError, match="the smallest that can be is 10 bytes, more than 9"):
        choose([[Option(Packing("int4"), 10, 0.0)]], 9)


def test_many_tensors_of_odd_sizes_stay_within_the_budget():
    """Where sizes have no common unit, they are rounded up, never down."""
    rng = np.random.default_rng(0)
    options = [
        [Option(Packing("int4"), int(size), 1 / size) for size in sorted(rng.integers(1e6, 9e8, 6))]
        for _ in range(200)
    ]
    least = sum(o[0].nbytes for o in options)
    most = sum(o[-1].nbytes for o in options)
    budget = least + (most - least) // 3
    chosen = choose(options, budget)
    assert 0.99 * budget < sum(o.nbytes for o in chosen) <= budget


def test_options_get_better_with_their_size():
    w = np.random.default_rng(1).standard_normal((70, 256), dtype=np.float32)
    options = options_of(Trial(w.shape, lambda matrix, start, stop: w[start:stop]))
    assert [o.nbytes for o in options] == sorted({o.nbytes for o in options})
    errors = [o.error for o in options]
    assert errors == sorted(errors, reverse=True)
    assert {o.packing.bits for o in options} >= {2, 4}
    for option in options:
        q = binq.quantize(w, option.packing.format, group_size=option.packing.group_size)
        exact = float(np.square(q.dequantize() - w).sum() / np.square(w).sum())
        assert option.error == pytest.approx(exact, rel=0.1)
        assert option.nbytes == q.nbytes


def levelled(h):
    """Returns moments of which no input counts for more than the median does."""
    most = np.sqrt(np.minimum(1, np.median(h.diagonal()) / h.diagonal()))
    return h * most * most[:, None]


@pytest.mark.parametrize("centred", [False, True])
def test_a_trial_loses_what_the_method_will_lose(centred):
    """Of what the layer gives, by the moments of its inputs."""
    rng = np.random.default_rng(4)
    w = rng.standard_normal((256, 128), dtype=np.float32)
    cal = binq.Calibrator()
    x = rng.standard_normal((500, 20)) @ rng.standard_normal((20, 128)) + 3
    x[0, 5] = 1e4
    cal.update("w", x)
    stats = cal["w"]
    trial = Trial(
        w.shape, lambda matrix, start, stop: w[start:stop], Gptq(), statistics=stats,
        centred=centred, sensitivity=7,
    )  # fmt: skip
    h = stats.covariance.astype(np.float64) if centred else stats.second_moment()
    h = levelled(h)
    options = options_of(trial)
    (measured,) = (o for o in options if o.packing == MEASURED)
    assert measured.loss == pytest.approx(7)
    for option in options:
        form = {"format": option.packing.format, "group_size": option.packing.group_size}
        q = binq.quantize(w, **form, method="gptq", stats=stats, return_bias=centred)
        e = w - (q[0] if centred else q).dequantize(np.float64)
        exact = ((e @ h) * e).sum() / ((w.astype(np.float64) @ h) * w).sum()
        assert option.error == pytest.approx(exact, rel=0.2)
        assert option.weight == measured.weight


def test_what_is_exact_in_three_bits_stays_so():
    codes = np.random.default_rng(7).integers(-4, 4, (64, 128))
    codes[:, ::32] = -4
    w = codes.astype(np.float32)
    others = [Option(Packing("int2"), 1000, 0.1), Option(Packing("int4"), 9000, 0.001)]
    options = options_of(Trial(w.shape, lambda matrix, start, stop: w[start:stop]))
    chosen, _ = choose([options, others], max(o.nbytes for o in options) + 9000)
    assert chosen.error == 0
    assert chosen.packing.format == "int3"
    exact = min(o.nbytes for o in options if o.error == 0)
    chosen, _ = choose([options, others], exact + 1000)
    assert chosen.error == 0


class Sevens(Method):
    """A method that has one format."""

    name = "sevens"

    def check(self, packing):
        if packing.format != self.format:
            raise ValueError(f"method 'sevens' has no {packing.format!r}")

    def quantize(self, task):
        return METHODS["absmax"].quantize(task)


@pytest.mark.parametrize(("format", "count"), [("int4", 3), ("binary", 0)])
def test_a_method_of_ones_own_gets_what_it_has(format, count):
    w = np.random.default_rng(8).standard_normal((64, 128), dtype=np.float32)
    method = Sevens()
    method.format = format
    trial = Trial(w.shape, lambda matrix, start, stop: w[start:stop], method)
    if not count:
        with pytest.raises(ValueError, match="'sevens' has none of the forms that a target"):
            options_of(trial)
        return
    assert {o.packing.format for o in options_of(trial)} == {"int4"}
    assert len(options_of(trial)) == count


def test_each_matrix_of_a_stack_has_its_own_importance():
    rng = np.random.default_rng(5)
    w = rng.standard_normal((4, 32, 64), dtype=np.float32)
    asked = []

    def importance(matrix):
        asked.append(matrix)
        return np.ones(64, np.float32)

    def read(matrix, start, stop):
        return w[matrix, start:stop]

    weighed = options_of(Trial(w.shape, read, importance=importance))
    assert asked == [0, 1, 2, 3]
    plain = options_of(Trial(w.shape, read))
    assert [o.error for o in weighed] == pytest.approx([o.error for o in plain], rel=1e-3)


@pytest.fixture
def source(tmp_path):
    """Layers that are hard to quantize, with a few large weights a row, and easy ones."""
    rng = np.random.default_rng(2)
    tensors = {"model.embed_tokens.weight": rng.standard_normal((40, 256)).astype(np.float16)}
    for n in range(LAYERS):
        w = rng.standard_normal((128, 256))
        if n % 2:
            w *= np.exp(1.5 * rng.standard_normal(w.shape))
        tensors[f"model.layers.{n}.mlp.up_proj.weight"] = w.astype(np.float16)
    return one_file(tmp_path / "source", tensors)


def packed_of(report):
    return [t for t in report.tensors if not t.kept]


def test_bits_a_weight(source, tmp_path):
    sizes, formats = [], set()
    for target in (2.2, 2.75, 3.3, 4.2, 4.5, 30):
        report = binq.quantize_checkpoint(source, tmp_path / "out", target_bpw=target, dry_run=True)
        packed = packed_of(report)
        bits = 8 * sum(t.bytes_after for t in packed) / (LAYERS * 128 * 256)
        assert bits <= target
        sizes.append(bits)
        formats |= {t.format for t in packed}
    assert sizes == sorted(sizes)
    # What can be used is used.
    assert sizes[2] > 3
    assert len(formats) > 2


def test_better_than_one_format_for_all_of_the_same_size(source, tmp_path):
    def error(report):
        return sum(10 ** (-t.sqnr_db / 10) for t in packed_of(report))

    for group, bits in ((32, 4.5), (64, 4.25)):
        uniform = binq.quantize_checkpoint(source, tmp_path / f"u{group}", group_size=group)
        report = binq.quantize_checkpoint(source, tmp_path / f"t{group}", target_bpw=bits)
        assert report.bytes_after <= uniform.bytes_after
        assert error(report) <= error(uniform)
    assert binq.load(tmp_path / "t64").keys() == binq.load(source).keys()


def test_bytes_of_the_whole_folder(source, tmp_path):
    report = binq.quantize_checkpoint(source, tmp_path / "out", target_bytes=90_000)
    stored = sum(t.bytes_after for t in report.tensors)
    assert 85_000 < stored <= 90_000


def test_rules_decide_first(source, tmp_path):
    rule = "model.layers.0.*=ternary:g32"
    report = binq.quantize_checkpoint(
        source, tmp_path / "out", target_bpw=3, rules=[rule], dry_run=True
    )
    packed = {t.name: t.format for t in packed_of(report)}
    assert packed["model.layers.0.mlp.up_proj.weight"] == "ternary g32"
    assert not any(f.startswith("ternary") for n, f in packed.items() if ".0." not in n)


def calibrated(folder, sensitivities=()):
    """Returns a calibration, half of whose layers get inputs of a low rank and a large mean."""
    cal = binq.Calibrator()
    rng = np.random.default_rng(3)
    for n in range(LAYERS):
        x = rng.standard_normal((400, 256))
        if n < LAYERS // 2:
            x = x[:, :30] @ rng.standard_normal((30, 256)) + 2
        cal.update(layer(n), x)
    for n, value in dict(sensitivities).items():
        cal.set_sensitivity(layer(n), value)
    cal.save(folder / "cal.safetensors")
    return cal


def layer(n):
    return f"model.layers.{n}.mlp.up_proj.weight"


def errors_of(cal, weights, packed):
    """Returns by name what the layers' outputs lose, each a part of its power."""
    found = {}
    for name in cal:
        w, h = np.asarray(weights[name], np.float64), levelled(cal[name].second_moment())
        e = w - packed[name].dequantize(np.float64)
        found[name] = ((e @ h) * e).sum() / ((w @ h) * w).sum()
    return found


def test_better_than_any_format_for_all_with_a_calibration(source, tmp_path):
    cal = calibrated(tmp_path)
    options = {"calibration": tmp_path / "cal.safetensors"}
    weights = binq.load(source)
    uniform = {}
    for form, group in itertools.product(("int2", "int3", "int4", "iq4nl"), (32, 64, 128)):
        out = tmp_path / f"{form}{group}"
        report = binq.quantize_checkpoint(source, out, form, group_size=group, **options)
        bits = 8 * sum(t.bytes_after for t in packed_of(report)) / (LAYERS * 128 * 256)
        uniform[form, group] = bits, errors_of(cal, weights, binq.load(out))
    for target in (2.6, 3.3, 3.7, 4.4):
        out = tmp_path / str(target)
        report = binq.quantize_checkpoint(source, out, target_bpw=target, **options)
        costs = {t.name: t.expected_loss / t.expected_error for t in packed_of(report)}

        def loss(errors, costs=costs):
            return sum(costs[name] * error for name, error in errors.items())

        found = loss(errors_of(cal, weights, binq.load(out)))
        assert found < min(loss(errors) for bits, errors in uniform.values() if bits <= target)
        assert sum(t.expected_loss for t in packed_of(report)) == pytest.approx(found, rel=0.2)


def test_bits_go_where_the_model_minds_errors(source, tmp_path):
    calibrated(tmp_path, {0: 0.01, 1: 1, 2: 1, 3: 1, 4: 100})
    report = binq.quantize_checkpoint(
        source, tmp_path / "out", target_bpw=3.3, calibration=tmp_path / "cal.safetensors",
        dry_run=True,
    )  # fmt: skip
    bits = {t.name: t.bits_per_weight for t in packed_of(report)}
    assert bits[layer(0)] == min(bits.values())
    assert bits[layer(4)] == max(bits.values())


def test_tensors_that_were_not_measured_cost_what_is_guessed_of_them():
    w = np.random.default_rng(6).standard_normal((64, 128), dtype=np.float32)
    trials = [
        Trial(w.shape, lambda matrix, start, stop: w[start:stop], sensitivity=value, name=name)
        for value, name in (
            (3.0, "a"),
            (5.0, "b"),
            (None, "v_proj.weight"),
            (None, "q_proj.weight"),
        )
    ]

    def losses_of(numbers):
        options = weighed([trials[n] for n in numbers])
        return [next(o for o in each if o.packing == MEASURED).loss for each in options]

    (error,) = {o.error for o in options_of(trials[0]) if o.packing == MEASURED}
    assert losses_of([2, 3]) == pytest.approx([error**0.5, error**0.5 / 3])
    # Beside others that were: in units of theirs.
    assert losses_of([0, 1, 2, 3]) == pytest.approx([3, 5, 4, 4 / 3])


def test_the_report_says_what_was_chosen(source, tmp_path):
    report = binq.quantize_checkpoint(source, tmp_path / "out", target_bpw=3.3, dry_run=True)
    text = str(report)
    assert f"chosen for a size: {LAYERS} tensors in 3." in text
    formats = {t.format for t in packed_of(report)}
    assert all(f" {form}\n" in text.split("chosen for a size")[1] for form in formats)
    assert all(t["expected_error"] > 0 for t in json.loads(report.to_json())["tensors"][1:])
    plain = binq.quantize_checkpoint(source, tmp_path / "out", dry_run=True)
    assert "chosen for a size" not in str(plain)
    assert all(t.expected_loss is None for t in plain.tensors)


def test_a_plan_is_drawn(source, tmp_path):
    pytest.importorskip("matplotlib")
    widths = []
    for options in ({}, {"target_bpw": 3.3}):
        report = binq.quantize_checkpoint(source, tmp_path / "out", dry_run=True, **options)
        report.plot(tmp_path / "plan.png")
        header = (tmp_path / "plan.png").read_bytes()[16:24]
        widths.append(int.from_bytes(header[:4]))
    # A fourth part: the bits of each layer.
    assert widths[1] == pytest.approx(4 / 3 * widths[0], abs=2)


def test_what_is_known_of_the_inputs_counts(source, tmp_path):
    """A layer of which only the easy inputs matter needs fewer bits."""
    calibrated(tmp_path)
    report = binq.quantize_checkpoint(
        source, tmp_path / "out", target_bpw=3.3, calibration=tmp_path / "cal.safetensors"
    )
    assert 8 * sum(t.bytes_after for t in packed_of(report)) <= 3.3 * LAYERS * 128 * 256
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert (settings["target_bpw"], settings["method"]) == (3.3, "gptq")


def test_the_same_plan_each_time(source, tmp_path, threads):
    formats = []
    for count in (1, 3):
        binq.set_num_threads(count)
        report = binq.quantize_checkpoint(source, tmp_path / "o", target_bpw=3.3, dry_run=True)
        formats.append([t.format for t in report.tensors])
    assert formats[0] == formats[1]


def test_command_line(source, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["quantize", str(source), out, "--target-bpw", "3.3", "--dry-run", "--json"]) == 0
    formats = {t["format"] for t in json.loads(capsys.readouterr().out)["tensors"]}
    assert any(f.startswith("int2") for f in formats)
    arguments = ["quantize", str(source), out, "--target-bytes", "90kB", "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert sum(t["bytes_after"] for t in report["tensors"]) <= 90_000
    for wrong in ("4GX", "-1", ""):
        with pytest.raises(SystemExit):
            main(["quantize", str(source), out, "--target-bytes", wrong])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target_bpw": 1.5}, ValueError, r"target_bpw must be at least 2\.\d+ here, got 1.5"),
        ({"target_bytes": 100}, ValueError, r"target_bytes must be at least \d+ here, got 100"),
        ({"target_bpw": 3, "target_bytes": 9}, ValueError, "target_bpw must be None where"),
        ({"target_bpw": "3"}, TypeError, "target_bpw must be a number, got '3'"),
        ({"target_bpw": True}, TypeError, "target_bpw must be a number, got True"),
        ({"target_bpw": float("nan")}, ValueError, "target_bpw must be above 0 and below 64 bits"),
        ({"target_bpw": 100}, ValueError, "target_bpw must be above 0 and below 64 bits, got 100"),
        ({"target_bytes": 1.5}, TypeError, "target_bytes must be an integer, got 1.5"),
        ({"target_bpw": 3, "symmetric": False}, ValueError, "symmetric must be True with a target"),
        ({"target_bpw": 3, "format": "int3"}, ValueError, "format and group_size must be left out"),
        ({"target_bytes": 9**6, "group_size": 64}, ValueError, "int4 in groups of 64"),
        ({"target_bpw": 3, "rules": ["*=keep"]}, ValueError, "no tensor is free to choose from"),
    ],
)
def test_what_is_refused(source, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        binq.quantize_checkpoint(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
