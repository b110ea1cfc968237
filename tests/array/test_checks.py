"""Argument checks: what passes, and the exact words for what does not."""

import ml_dtypes
import numpy as np
import pytest

import binq
from binq.array import checks


@pytest.mark.parametrize("value", [32, 64, 128, 256, np.int64(128), np.uint8(64)])
def test_group_size_passes_as_int(value):
    checked = checks.check_group_size(value)
    assert checked == value
    assert type(checked) is int


def test_group_size_none_passes():
    assert checks.check_group_size(None) is None


@pytest.mark.parametrize("value", [0, -1, -32, 1, 31, 33, 96, 512, 2**31, 2**64])
def test_group_size_fails(value):
    with pytest.raises(ValueError, match="group_size must be 32, 64, 128, 256 or None, got"):
        checks.check_group_size(value)


@pytest.mark.parametrize("value", [True, False, np.True_, 128.0, "128", [128], 1j])
def test_group_size_fails_for_what_is_not_an_integer(value):
    with pytest.raises(TypeError, match="group_size must be 32, 64, 128, 256 or None, got"):
        checks.check_group_size(value)


class Tensor:
    """As torch's: an array of floats for numpy, with a method that packed weights have too."""

    def dequantize(self):
        return self

    def __array__(self, dtype=None, copy=None):
        return np.array([[1.0, -2.0]], dtype)


def test_tensors_of_other_libraries_are_arrays():
    assert checks.as_float32("x", Tensor()).tolist() == [[1.0, -2.0]]
    q = binq.quantize(Tensor(), "int4", method="absmax")
    assert binq.linear(Tensor(), q).shape == (1, 1)


@pytest.mark.parametrize("value", [None, b"m.safetensors", 3, ["a"]])
def test_paths_that_fail(value):
    message = "^path must be a str or an os.PathLike, got "
    with pytest.raises(TypeError, match=message):
        binq.load_file(value)
    with pytest.raises(TypeError, match=message):
        binq.save_file({}, value)
    with pytest.raises(TypeError, match=r"^src must be a str or an os.PathLike, got "):
        binq.quantize_checkpoint(value, "dst")


def test_a_dtype_that_is_none_is_named():
    with pytest.raises(TypeError, match=r"^dtype must be a float dtype, got 'foo'$"):
        binq.quantize(np.ones((1, 1)), "binary").dequantize("foo")
    with pytest.raises(TypeError, match=r"^scale_dtype must be one of .*, got None$"):
        binq.quantize(np.ones((1, 1)), "binary", scale_dtype=None)


def test_group_size_message_shows_the_value():
    with pytest.raises(ValueError, match=r"^group_size must be 32, 64, 128, 256 or None, got 0$"):
        checks.check_group_size(0)


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_bool_passes(value):
    checked = checks.check_bool("symmetric", value)
    assert checked == value
    assert type(checked) is bool


@pytest.mark.parametrize("value", [0, 1, None, "yes", 1.0])
def test_bool_fails(value):
    with pytest.raises(TypeError, match=f"^symmetric must be True or False, got {value!r}$"):
        checks.check_bool("symmetric", value)


def test_int_passes():
    assert checks.check_int("threads", np.int32(3), 1) == 3
    assert type(checks.check_int("threads", np.int32(3), 1)) is int


@pytest.mark.parametrize("value", [True, np.True_, 1.0, np.float32(1), "1", None, [1]])
def test_int_fails_on_types(value):
    with pytest.raises(TypeError, match=r"^threads must be an integer, got "):
        checks.check_int("threads", value, 1)


@pytest.mark.parametrize("value", [0, -1, 9, 2**40])
def test_int_fails_out_of_range(value):
    with pytest.raises(ValueError, match=f"^threads must be from 1 to 8, got {value}$"):
        checks.check_int("threads", value, 1, 8)


def test_choice():
    assert checks.check_choice("method", "mse", ["mse", "absmax"]) == "mse"
    with pytest.raises(ValueError, match=r"^method must be one of 'mse', 'absmax', got 'mean'$"):
        checks.check_choice("method", "mean", ["mse", "absmax"])
    with pytest.raises(TypeError, match=r"^method must be one of 'mse', 'absmax', got 3$"):
        checks.check_choice("method", 3, ["mse", "absmax"])


def test_matrix_shape():
    assert checks.check_matrix_shape([np.int64(2), 3, 0]) == (2, 3, 0)
    with pytest.raises(ValueError, match=r"2 or more axes, got \(3,\)$"):
        checks.check_matrix_shape((3,))
    with pytest.raises(ValueError, match=r"^shape\[1\] must be from 0 to"):
        checks.check_matrix_shape((3, -1))
    with pytest.raises(TypeError, match=r"^shape\[0\] must be an integer, got 3.0$"):
        checks.check_matrix_shape((3.0, 1))
    with pytest.raises(TypeError, match=r"^shape must be a sequence of integers, got 3$"):
        checks.check_matrix_shape(3)


F32 = np.dtype(np.float32)
F16 = np.dtype(np.float16)


def test_stored_is_a_read_only_view():
    array = np.ones((2, 3), np.float32)
    view = checks.check_stored("scales", array, (F16, F32), (2, 3))
    assert np.shares_memory(view, array)
    assert not view.flags.writeable
    assert array.flags.writeable


def test_stored_strips_memmap(tmp_path):
    np.ones(4, np.float32).tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.float32, "r")
    view = checks.check_stored("scales", mapped, (F32,), (4,))
    assert type(view) is np.ndarray
    assert np.shares_memory(view, mapped)


def test_stored_aligns():
    memory = np.zeros(9, np.uint8)
    unaligned = memory[1:].view(np.float32)
    view = checks.check_stored("scales", unaligned, (F32,), (2,))
    assert view.flags.aligned


def test_stored_fails():
    with pytest.raises(TypeError, match=r"^scales must be a numpy array, got list$"):
        checks.check_stored("scales", [1.0], (F32,), (1,))
    with pytest.raises(TypeError, match=r"^scales must be a numpy array, got NoneType$"):
        checks.check_stored("scales", None, (F32,), (1,))
    with pytest.raises(TypeError, match=r"must have dtype float16 or float32, got float64$"):
        checks.check_stored("scales", np.ones(1), (F16, F32), (1,))
    with pytest.raises(TypeError, match=r"must have dtype float32, got >f4$"):
        checks.check_stored("scales", np.ones(1, ">f4"), (F32,), (1,))
    with pytest.raises(ValueError, match=r"^scales must have shape \(2, 1\), got \(1, 2\)$"):
        checks.check_stored("scales", np.ones((1, 2), np.float32), (F32,), (2, 1))


def test_out():
    out = np.empty((2, 2), np.float32)
    assert checks.check_out(out, (2, 2)) is out
    assert checks.check_out(out, (2, 2), F32) is out
    with pytest.raises(TypeError, match=r"^out must be a numpy array, got list$"):
        checks.check_out([], (2, 2))
    with pytest.raises(TypeError, match=r"^out must have dtype float16, got float32$"):
        checks.check_out(out, (2, 2), F16)
    with pytest.raises(ValueError, match=r"^out must have shape \(2, 3\), got \(2, 2\)$"):
        checks.check_out(out, (2, 3))
    out.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out must be writable, got a read-only array$"):
        checks.check_out(out, (2, 2))


@pytest.mark.parametrize(
    "dtype", ["float16", np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]
)
def test_float_dtype_passes(dtype):
    assert checks.check_float_dtype("dtype", dtype) == np.dtype(dtype)


@pytest.mark.parametrize("dtype", [int, bool, complex, object, "U4", ml_dtypes.int4])
def test_float_dtype_fails(dtype):
    with pytest.raises(TypeError, match=r"^dtype must be a float dtype, got "):
        checks.check_float_dtype("dtype", dtype)


def test_codes():
    codes = checks.check_codes("codes", [[-1, 1]], (-1, 1))
    assert codes.dtype == np.int8
    assert codes.tolist() == [[-1, 1]]
    wide = checks.check_codes("codes", np.array([[0, 15]], np.uint64), tuple(range(16)))
    assert wide.tolist() == [[0, 15]]
    with pytest.raises(TypeError, match=r"^codes must hold integers, got dtype float64$"):
        checks.check_codes("codes", [[1.0]], (-1, 1))
    with pytest.raises(TypeError, match="got dtype bool"):
        checks.check_codes("codes", [[True]], (-1, 1))
    with pytest.raises(ValueError, match=r"^codes must be -1 or 1, got 0 at \(0, 2\)$"):
        checks.check_codes("codes", [[1, -1, 0]], (-1, 1))
    with pytest.raises(ValueError, match=r"^codes must be -1 or 0 or 1, got 2 at \(1, 0\)$"):
        checks.check_codes("codes", [[0], [2]], (-1, 0, 1))
    with pytest.raises(ValueError, match=r"^codes must be from 0 to 15, got 256 at \(0, 0\)$"):
        checks.check_codes("codes", [[256]], tuple(range(16)))
    with pytest.raises(ValueError, match="2 or more axes"):
        checks.check_codes("codes", [1], (-1, 1))
    with pytest.raises(ValueError, match=r"^zero_points must have shape \(2, 1\), got \(1, 2\)$"):
        checks.check_codes("zero_points", [[1, 1]], (-1, 1), (2, 1))


def test_group_values():
    assert checks.check_group_values("scales", [[1]], (1, 1)).dtype == np.float32
    with pytest.raises(ValueError, match=r"^scales must have shape \(1, 2\), got \(1, 1\)$"):
        checks.check_group_values("scales", [[1.0]], (1, 2))
    with pytest.raises(ValueError, match=r"^scales must be finite, got inf at \(0, 1\)$"):
        checks.check_group_values("scales", [[1.0, np.inf]], (1, 2))
    with pytest.raises(ValueError, match=r"^scales must be finite, got nan at \(0, 0\)$"):
        checks.check_group_values("scales", [[np.nan]], (1, 1))


def test_as_float32_keeps_the_array():
    x = np.ones((2, 3), np.float32)
    x.flags.writeable = False
    assert checks.as_float32("x", x) is x


@pytest.mark.parametrize(
    "dtype",
    [
        *(np.float16, np.float64, np.longdouble, ">f4", ">f8", bool, np.int8, np.uint64, np.int64),
        *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
    ],
)
def test_as_float32_converts(dtype):
    x = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    converted = checks.as_float32("x", x)
    assert converted.dtype == np.float32
    assert converted.dtype.isnative
    np.testing.assert_array_equal(converted, [[0, 1, 1], [1, 0, 1]])


def test_as_float32_makes_contiguous():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    for view in (x.T, x[:, ::2], x[::-1], np.asfortranarray(x)):
        converted = checks.as_float32("x", view)
        assert converted.flags.c_contiguous
        np.testing.assert_array_equal(converted, view)
    converted = checks.as_float32("x", np.asfortranarray(x).astype(np.float64))
    assert converted.flags.c_contiguous


def test_as_float32_aligns():
    unaligned = np.zeros(9, np.uint8)[1:].view(np.float32)
    assert checks.as_float32("x", unaligned).flags.aligned


def test_as_float32_keeps_inf_and_nan():
    converted = checks.as_float32("x", [np.inf, -np.inf, np.nan, 1e-300, 3.4028235e38])
    np.testing.assert_array_equal(
        converted, np.array([np.inf, -np.inf, np.nan, 0, 3.4028235e38], np.float32)
    )


def test_as_float32_fails_on_overflow():
    x = np.ones((2, 3))
    x[1, 2] = -1e39
    x[0, 0] = np.inf
    message = r"^x\[1, 2\] = -1e\+39 does not fit float32 \(largest 3.4028235e\+38\)$"
    with pytest.raises(ValueError, match=message):
        checks.as_float32("x", x)


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        ([1j], "complex128"),
        ([None], "object"),
        (["1"], "<U1"),
        (np.array(["2020-01-01"], "M8[D]"), r"datetime64\[D\]"),
        (np.zeros(1, "V4"), r"\|V4"),
        (np.zeros(1, ml_dtypes.int4), "int4"),
    ],
)
def test_as_float32_fails_on_dtypes(x, dtype):
    with pytest.raises(TypeError, match=f"^x must hold real numbers, got dtype {dtype}$"):
        checks.as_float32("x", x)


def test_as_float32_fails_on_masked():
    with pytest.raises(TypeError, match=r"^x must be a plain array, got a masked one$"):
        checks.as_float32("x", np.ma.array([1.0], mask=[True]))


def test_masked_codes_are_refused():
    codes = np.ma.array([[1, -1]], mask=[[False, True]])
    with pytest.raises(TypeError, match=r"^codes must be a plain array, got a masked one$"):
        binq.QuantizedArray.from_codes(codes, [[1.0]], format="binary")
