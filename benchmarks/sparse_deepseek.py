"""Prints how long a DeepSeek V3 of full size takes to plan and to convert, without its weights.

    python benchmarks/sparse_deepseek.py [--folder /tmp] [--parts 24] [--rounds 1]

The source has the names, types and shapes of DeepSeek V3: 90,427 tensors, 671 billion weights of
which nearly all are float8 in blocks, 673 GB in 163 files. They are sparse, nothing but headers and
holes, and take some 20 MB of a disk whose file system has holes; what is read of them are zeros.
One part of --parts of the shards that it becomes is converted to int4 by absmax, and deleted.
``--layers`` and ``--experts`` make a smaller model; BINQ_BENCH_SMOKE=1 one that takes a second.
"""

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path

from cases import SMOKE

import binq

Tensor = tuple[str, str, tuple[int, ...]]
BYTES = {"F8_E4M3": 1, "BF16": 2, "F32": 4}
BLOCK = 128
SCALE = 16 if SMOKE else 1
HIDDEN, DENSE, EXPERT, VOCABULARY = (size // SCALE for size in (7168, 18432, 2048, 129280))
HEADS, Q_RANK, KV_RANK = 128 // SCALE, 1536 // SCALE, 512
NOPE, ROPE, VALUE = 128, 64, 128
FIRST_DENSE = 3


def float8(name: str, rows: int, columns: int) -> Iterator[Tensor]:
    yield f"{name}.weight", "F8_E4M3", (rows, columns)
    yield f"{name}.weight_scale_inv", "F32", (-(-rows // BLOCK), -(-columns // BLOCK))


def mlp(name: str, inner: int) -> Iterator[Tensor]:
    yield from float8(f"{name}.gate_proj", inner, HIDDEN)
    yield from float8(f"{name}.up_proj", inner, HIDDEN)
    yield from float8(f"{name}.down_proj", HIDDEN, inner)


def tensors(layers: int, experts: int) -> Iterator[Tensor]:
    """Yields name, type and shape of each tensor, in the order of the model."""
    yield "model.embed_tokens.weight", "BF16", (VOCABULARY, HIDDEN)
    for number in range(layers):
        layer = f"model.layers.{number}"
        attention = f"{layer}.self_attn"
        yield f"{layer}.input_layernorm.weight", "BF16", (HIDDEN,)
        yield from float8(f"{attention}.q_a_proj", Q_RANK, HIDDEN)
        yield f"{attention}.q_a_layernorm.weight", "BF16", (Q_RANK,)
        yield from float8(f"{attention}.q_b_proj", HEADS * (NOPE + ROPE), Q_RANK)
        yield from float8(f"{attention}.kv_a_proj_with_mqa", KV_RANK + ROPE, HIDDEN)
        yield f"{attention}.kv_a_layernorm.weight", "BF16", (KV_RANK,)
        yield from float8(f"{attention}.kv_b_proj", HEADS * (NOPE + VALUE), KV_RANK)
        yield from float8(f"{attention}.o_proj", HIDDEN, HEADS * VALUE)
        yield f"{layer}.post_attention_layernorm.weight", "BF16", (HIDDEN,)
        if number < FIRST_DENSE:
            yield from mlp(f"{layer}.mlp", DENSE)
            continue
        yield f"{layer}.mlp.gate.weight", "BF16", (experts, HIDDEN)
        yield f"{layer}.mlp.gate.e_score_correction_bias", "F32", (experts,)
        yield from mlp(f"{layer}.mlp.shared_experts", EXPERT)
        for expert in range(experts):
            yield from mlp(f"{layer}.mlp.experts.{expert}", EXPERT)
    yield "model.norm.weight", "BF16", (HIDDEN,)
    yield "lm_head.weight", "BF16", (VOCABULARY, HIDDEN)


def nbytes(tensor: Tensor) -> int:
    return BYTES[tensor[1]] * prod(tensor[2])


def write_file(path: Path, held: list[Tensor]) -> None:
    """Writes a header, and a hole where the data would lie."""
    header, at = {}, 0
    for tensor in held:
        name, dtype, shape = tensor
        end = at + nbytes(tensor)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def make(folder: Path, layers: int, experts: int, files: int) -> tuple[int, int]:
    """Writes the checkpoint; returns how many tensors and bytes it has."""
    every = list(tensors(layers, experts))
    total = sum(map(nbytes, every))
    held: list[list[Tensor]] = [[] for _ in range(files)]
    at = 0
    for tensor in every:
        held[min(files - 1, at * files // total)].append(tensor)
        at += nbytes(tensor)
    folder.mkdir()
    places = {}
    for number, some in enumerate(held):
        name = f"model-{number + 1:05d}-of-{files:06d}.safetensors"
        write_file(folder / name, some)
        places |= dict.fromkeys((tensor[0] for tensor in some), name)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "model_type": "deepseek_v3",
        "num_hidden_layers": layers,
        "n_routed_experts": experts,
        "quantization_config": {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [BLOCK, BLOCK],
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return len(every), total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--layers", type=int, default=5 if SMOKE else 61)
    parser.add_argument("--experts", type=int, default=4 if SMOKE else 256)
    parser.add_argument("--files", type=int, default=8 if SMOKE else 163)
    parser.add_argument("--shard-bytes", type=int, default=1 << 20 if SMOKE else 5_000_000_000)
    parser.add_argument("--parts", type=int, default=2 if SMOKE else 24)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    info = binq.cpu_info()
    print(f"{info['isa']} kernels, {binq.get_num_threads()} threads, {options.folder}")
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        source, target = Path(place, "DeepSeek-V3"), Path(place, "packed")
        started = time.perf_counter()
        count, total = make(source, options.layers, options.experts, options.files)
        print(
            f"{count} tensors of {total / 1e9:.3f} GB in {options.files} files, made in "
            f"{time.perf_counter() - started:.2f} s"
        )
        settings = {"method": "absmax", "max_shard_bytes": options.shard_bytes}
        for number in range(options.rounds):
            started = time.perf_counter()
            plan = binq.quantize_checkpoint(source, target, "int4", dry_run=True, **settings)
            planned = time.perf_counter() - started
            busy = time.process_time()
            started = time.perf_counter()
            report = binq.quantize_checkpoint(
                source, target, "int4", part=(1 + number % options.parts, options.parts), **settings
            )
            taken = time.perf_counter() - started
            busy = time.process_time() - busy
            done = report.bytes_done / 1e9
            print(
                f"planned {len(plan.tensors)} in {planned:.2f} s; converted {done:.3f} GB in "
                f"{report.seconds:.2f} s: {done / report.seconds:.3f} GB/s; with its own plan "
                f"{taken:.2f} s, {busy:.2f} of a processor"
            )
            shutil.rmtree(target.with_name(target.name + ".partial"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"at most {peak:.2f} GB of memory")


if __name__ == "__main__":
    main()
