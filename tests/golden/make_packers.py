"""Made packers.npz: small matrices as the libraries that own a format pack them.

GPTQModel 7.7.0 (TorchLinear.pack_original and its conversion to version 1), AutoAWQ 0.2.9
(WQLinear_GEMM.from_linear) and transformers 5.24.0 (integrations.bitnet.pack_weights), on the CPU:

pip install gptqmodel==7.7.0 autoawq==0.2.9 transformers==5.24.0
python tests/golden/make_packers.py
"""

import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

# AutoAWQ imports its loader of calibration data, which packing does not use.
sys.modules.setdefault("datasets", types.SimpleNamespace(load_dataset=None))

from awq.modules.linear.gemm import WQLinear_GEMM  # noqa: E402
from gptqmodel.nn_modules.qlinear.torch import TorchLinear  # noqa: E402
from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module  # noqa: E402
from transformers.integrations.bitnet import pack_weights  # noqa: E402

ROWS, COLUMNS, GROUP = 32, 96, 32
GROUPS = COLUMNS // GROUP


def linear(codes, zeros, scales):
    layer = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    zero, scale = (np.repeat(a.astype(np.float32), GROUP, axis=1) for a in (zeros, scales))
    layer.weight.data = torch.from_numpy((codes - zero) * scale)
    return layer


def gptq(bits, symmetric, version, rng):
    """Returns codes (rows, columns), zeros and scales (rows, groups), and what is stored."""
    codes = rng.integers(0, 1 << bits, (ROWS, COLUMNS)).astype(np.uint8)
    zeros = rng.integers(0, 1 << bits, (ROWS, GROUPS)).astype(np.uint8)
    if symmetric:
        zeros[:] = 1 << (bits - 1)
    scales = rng.uniform(0.01, 0.02, (ROWS, GROUPS)).astype(np.float16)
    module = TorchLinear(
        bits=bits,
        group_size=GROUP,
        sym=symmetric,
        desc_act=False,
        in_features=COLUMNS,
        out_features=ROWS,
    )
    index = torch.arange(COLUMNS, dtype=torch.int32) // GROUP
    module.pack_original(
        linear(codes, zeros, scales),
        torch.from_numpy(scales.astype(np.float32)),
        torch.from_numpy(zeros.astype(np.float32)),
        index,
    )
    if version == 1:
        settings = SimpleNamespace(bits=bits, pack_dtype=torch.int32)
        convert_gptq_v2_to_v1_format_module(module, settings)
    stored = {p: getattr(module, p).numpy() for p in ("qweight", "qzeros", "scales", "g_idx")}
    return {"codes": codes, "zeros": zeros, "group_scales": scales} | stored


def awq(rng):
    codes = rng.integers(0, 16, (ROWS, COLUMNS)).astype(np.uint8)
    zeros = rng.integers(0, 16, (ROWS, GROUPS)).astype(np.uint8)
    scales = rng.uniform(0.01, 0.02, (ROWS, GROUPS)).astype(np.float16)
    module = WQLinear_GEMM.from_linear(
        linear(codes, zeros, scales),
        4,
        GROUP,
        scales=torch.from_numpy(scales.astype(np.float32).T.copy()),
        zeros=torch.from_numpy(zeros.astype(np.float32).T.copy()),
    )
    stored = {part: getattr(module, part).numpy() for part in ("qweight", "qzeros", "scales")}
    return {"codes": codes, "zeros": zeros, "group_scales": scales} | stored


def bitnet(rng):
    codes = rng.integers(-1, 2, (ROWS, COLUMNS)).astype(np.int8)
    packed = pack_weights(torch.from_numpy(codes.astype(np.float32)))
    return {"codes": codes, "weight": packed.numpy()}


def main():
    rng = np.random.default_rng(20261127)
    made = {}
    for bits in (2, 3, 4, 8):
        made[f"gptq.{bits}.symmetric.1"] = gptq(bits, True, 1, rng)
        made[f"gptq.{bits}.asymmetric.2"] = gptq(bits, False, 2, rng)
    made["awq"] = awq(rng)
    made["bitnet"] = bitnet(rng)
    arrays = {f"{case}/{part}": a for case, parts in made.items() for part, a in parts.items()}
    np.savez_compressed(Path(__file__).with_name("packers.npz"), **arrays)


if __name__ == "__main__":
    main()
