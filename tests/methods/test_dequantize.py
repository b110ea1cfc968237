"""dequantize: the floats of packed weights, in the dtype that is asked for."""

import ml_dtypes
import numpy as np
import pytest

import binq


def test_dequantize():
    w = np.random.default_rng(14).standard_normal((3, 40), dtype=np.float32)
    q = binq.quantize(w, "int4")
    assert (binq.dequantize(q) == q.dequantize()).all()
    assert binq.dequantize(q, np.float64).dtype == np.float64
    assert binq.dequantize(q, ml_dtypes.bfloat16).dtype == ml_dtypes.bfloat16
    with pytest.raises(TypeError, match="q must be a QuantizedArray, got ndarray"):
        binq.dequantize(w)
    with pytest.raises(TypeError, match="dtype must be a float"):
        binq.dequantize(q, np.int8)
