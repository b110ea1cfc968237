"""Calibrator: moments as float64 has them, however the rows came in."""

import json
import tracemalloc

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

import binq


def rows(count, columns, seed=0, mean=0.0):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((columns, columns))
    return (rng.standard_normal((count, columns)) @ mixing + mean).astype(np.float32)


def assert_moments(moments, x, rtol=1e-6):
    exact = x.reshape(-1, x.shape[-1]).astype(np.float64)
    covariance = np.cov(exact, rowvar=False, bias=True).reshape(exact.shape[1], -1)
    assert moments.count == len(exact)
    assert moments.covariance.dtype == moments.mean.dtype == np.float32
    largest = np.abs(covariance).max()
    np.testing.assert_allclose(moments.covariance, covariance, rtol=0, atol=rtol * largest)
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-6, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 700), min_size=1, max_size=12),
    columns=st.integers(1, 40),
    mean=st.sampled_from([0.0, 3.0, 1000.0]),
)
def test_any_cut_of_the_rows_gives_their_moments(cuts, columns, mean):
    x = rows(sum(cuts), columns, mean=mean)
    cal = binq.Calibrator()
    for part in np.split(x, np.cumsum(cuts)[:-1]):
        cal.update("w", part)
    assert_moments(cal["w"], x, rtol=1e-5 if mean == 1000.0 else 1e-6)


def test_a_large_mean_costs_no_digits():
    """The textbook's sum of squares less the square of sums has no digit left here."""
    x = 1e5 + np.random.default_rng(0).standard_normal((4000, 3)).astype(np.float32)
    cal = binq.Calibrator()
    cal.update("w", x)
    np.testing.assert_allclose(
        cal["w"].covariance.diagonal(), x.astype(np.float64).var(0), rtol=1e-3
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int32])
def test_dtypes_and_leading_axes(dtype):
    x = np.arange(24).reshape(2, 3, 4).astype(dtype)
    cal = binq.Calibrator()
    cal.update("w", x)
    assert_moments(cal["w"], x.astype(np.float32))


def test_rows_of_the_caller_may_change_afterwards():
    x = rows(5, 3)
    before = x.copy()
    cal = binq.Calibrator()
    cal.update("w", x)
    x[:] = 0
    assert_moments(cal["w"], before)


@pytest.mark.parametrize("counts", [(5, 7), (2000, 3), (1, 1), (0, 4), (4, 0)])
def test_merge(counts):
    x, y = rows(counts[0], 6), rows(counts[1], 6, seed=1, mean=2.0)
    one, two = binq.Calibrator(), binq.Calibrator()
    one.update("w", x)
    two.update("w", y)
    two.update("other", y)
    one.merge(two)
    assert_moments(one["w"], np.concatenate([x, y]))
    assert one["other"].count == counts[1]
    assert two["w"].count == counts[1]


def test_names_with_the_same_input_share_one_matrix():
    cal = binq.Calibrator()
    cal.update(("q", "k", "v"), rows(9, 4))
    assert list(cal) == ["q", "k", "v"]
    assert cal["q"] is cal["k"] is cal["v"]
    # One of them goes its own way.
    cal.update("k", rows(3, 4, seed=1))
    assert cal["q"] is not cal["k"]
    assert (cal["q"].count, cal["k"].count, cal["v"].count) == (9, 12, 9)


def test_merge_of_shared_and_parted_names():
    shared, parted = binq.Calibrator(), binq.Calibrator()
    shared.update(("q", "k"), rows(9, 4))
    parted.update("q", rows(2, 4, seed=1))
    parted.update("k", rows(3, 4, seed=2))
    shared.merge(parted)
    assert (shared["q"].count, shared["k"].count) == (11, 12)
    parted.merge(shared)
    assert (parted["q"].count, parted["k"].count) == (13, 15)


def test_save_and_load(tmp_path):
    cal = binq.Calibrator()
    cal.update(("q", "k"), rows(9, 4))
    cal.update("down.weight", rows(30, 7))
    cal.save(tmp_path / "c.safetensors")
    loaded = binq.Calibrator.load(tmp_path / "c.safetensors")
    assert sorted(loaded) == ["down.weight", "k", "q"]
    assert loaded["q"] is loaded["k"]
    for name in cal:
        assert loaded[name].covariance.tobytes() == cal[name].covariance.tobytes()
        assert loaded[name].mean.tobytes() == cal[name].mean.tobytes()
        assert loaded[name].count == cal[name].count
    # The file is only read; updating goes on in memory.
    loaded.update("down.weight", rows(5, 7))
    assert loaded["down.weight"].count == 35


def test_memory_does_not_grow_with_the_rows():
    cal = binq.Calibrator()
    x = rows(512, 128)
    peaks = []
    for _ in range(2):
        tracemalloc.start()
        for _ in range(8):
            cal.update("w", x)
        peaks.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert max(peaks) < 3 * 128 * 128 * 4 + 1024 * 128 * 4 + 65536


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([[1.0, np.inf]], binq.NonFiniteError, r"x of 'w' is not finite: inf at \(0, 1\)"),
        ([[1.0]], ValueError, "x of 'w' must have 2 columns as before, got 1"),
        (1.0, ValueError, r"x must be \(..., in_features\), got a number"),
        (np.ones((4, 0)), ValueError, r"x of 'w' must have at least one column, got \(4, 0\)"),
        ([["a", "b"]], TypeError, "x must hold real numbers"),
    ],
)
def test_wrong_rows(x, error, message):
    cal = binq.Calibrator()
    cal.update("w", [[1.0, 2.0]])
    with pytest.raises(error, match=message):
        cal.update("w", x)
    assert cal["w"].count == 1


def test_rows_whose_squares_float32_does_not_hold():
    cal = binq.Calibrator()
    cal.update("w", [[1e30, 0.0], [-1e30, 0.0]])
    with pytest.raises(
        ValueError, match="x of 'w' is so large that float32 cannot hold its square"
    ):
        _ = cal["w"]


@pytest.mark.parametrize("name", [3, "", (), ["a", 1], None])
def test_wrong_names(name):
    with pytest.raises(TypeError, match="name must be a str, or several, got"):
        binq.Calibrator().update(name, [[1.0]])


def test_sensitivities_are_kept_and_merged(tmp_path):
    one, two = binq.Calibrator(), binq.Calibrator()
    for cal in (one, two):
        cal.update(("q", "k"), [[1.0, 2.0]])
    one.set_sensitivity(("q", "k"), 3)
    two.set_sensitivity("k", 0.5)
    two.merge(one)
    assert dict(two.sensitivities) == {"q": 3.0, "k": 1.75}
    two.save(tmp_path / "two.safetensors")
    assert binq.Calibrator.load(tmp_path / "two.safetensors").sensitivities == two.sensitivities
    with pytest.raises(TypeError):
        two.sensitivities["q"] = 1.0


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("other", 1.0, KeyError, "no rows were seen of 'other'; there are rows of 'w'"),
        ("w", "1", TypeError, "value must be a number, got '1'"),
        ("w", True, TypeError, "value must be a number, got True"),
        ("w", -1.0, ValueError, "value must be a finite number of 0 or more, got -1.0"),
        ("w", float("nan"), ValueError, "value must be a finite number of 0 or more, got nan"),
    ],
)
def test_wrong_sensitivities(name, value, error, message):
    cal = binq.Calibrator()
    cal.update("w", [[1.0]])
    with pytest.raises(error, match=message):
        cal.set_sensitivity(name, value)
    assert not cal.sensitivities


def test_unknown_name():
    cal = binq.Calibrator()
    with pytest.raises(
        KeyError, match="no rows were seen of 'w'; there are rows of no name at all"
    ):
        _ = cal["w"]
    cal.update(tuple("abcd"), [[1.0]])
    with pytest.raises(KeyError, match="'a', 'b', 'c' and 1 more"):
        _ = cal["w"]


def test_merge_of_other_widths_changes_nothing():
    one, two = binq.Calibrator(), binq.Calibrator()
    one.update("b", [[1.0, 2.0]])
    two.update("a", [[1.0]])
    two.update("b", [[1.0]])
    with pytest.raises(ValueError, match="'b' must have 2 columns in both, got 1"):
        one.merge(two)
    assert list(one) == ["b"]


def broken_files():
    good = {
        "w.covariance": np.zeros((2, 2), np.float32),
        "w.mean": np.zeros(2, np.float32),
        "w.count": np.array(3, np.int64),
    }
    fine = json.dumps({"version": 1, "shared": {}})
    yield good, None, "not written by Calibrator.save"
    yield good, "[", "malformed"
    yield good, json.dumps({"version": 2, "shared": {}}), "calibration of version 2"
    yield good, json.dumps({"version": 1, "shared": {"w": ["w"]}}), "'w' appears twice"
    yield good, json.dumps({"version": 1, "shared": {"v": ["u"]}}), "other tensors"
    yield good | {"extra": np.zeros(1)}, fine, "other tensors"
    for known, message in (
        ([1], "malformed"),
        ({"v": 1.0}, "the sensitivity of 'v' is 1.0"),
        ({"w": -1.0}, "the sensitivity of 'w' is -1.0"),
        ({"w": "1"}, "the sensitivity of 'w' is '1'"),
    ):
        text = json.dumps({"version": 1, "shared": {}, "sensitivities": known})
        yield good, text, message
    yield good | {"w.mean": np.zeros(3, np.float32)}, fine, "do not fit together"
    yield good | {"w.mean": np.zeros(2)}, fine, "do not fit together"
    yield good | {"w.count": np.array(-1, np.int64)}, fine, "the count -1 is below 0"
    yield {k: v for k, v in good.items() if k != "w.count"}, fine, "covariance, mean and count"


@pytest.mark.parametrize(("tensors", "text", "message"), list(broken_files()))
def test_files_that_are_no_calibration(tmp_path, tensors, text, message):
    metadata = None if text is None else {"binq_calibration": text}
    binq.save_file(tensors, tmp_path / "c.safetensors", metadata)
    with pytest.raises((binq.FormatError, binq.UnsupportedFormatError), match=message):
        binq.Calibrator.load(tmp_path / "c.safetensors")
