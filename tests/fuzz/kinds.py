"""What is fuzzed: each kind of file alone, and whole folders of each scheme.

A kind makes its good examples once, and tries mutants of them: ``try_one(rng)`` returns whether the
mutant was accepted, and lets nothing out but errors that are no business of a reader.
"""

import json
import random
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
from checkpoints.fixtures import GGUF_GROUPS, GGUF_TYPES, Written, gguf_file, gguf_tensor
from checkpoints.models import MODELS
from fuzz.mutations import mutate, mutate_file, mutate_header, mutate_json

import binq
from binq.convert.inspect import inspect
from binq.convert.verify import verify
from binq.errors import FormatError, NonFiniteError, UnsupportedFormatError
from binq.files import metadata
from binq.files.checkpoint import Checkpoint
from binq.files.header import header_length, parse_header
from binq.files.imatrix import read_imatrix
from binq.models import logical_tensors

OURS = (FormatError, UnsupportedFormatError)


class Headers:
    """The JSON of safetensors headers, which is most of what such a file can say."""

    def __init__(self, folder: Path) -> None:
        path = _binq_file(folder)
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        self.text, self.size = data[8 : 8 + length].strip(), len(data) - 8 - length

    def try_one(self, rng: random.Random) -> bool:
        if rng.randrange(20):
            text = mutate(self.text, rng)
        else:
            text = mutate_header(json.loads(self.text), rng)
        with suppress(FormatError):
            header_length(text[:8], len(text), "fuzz")
        try:
            parse_header(text, self.size, "fuzz")
        except OURS:
            return False
        return True


class Descriptions:
    """What the metadata of a file say of its packed tensors."""

    def __init__(self, folder: Path) -> None:
        with Checkpoint(_binq_file(folder)) as source:
            (name,) = source.files
            self.text = source._file(name).metadata["binq"].encode()

    def try_one(self, rng: random.Random) -> bool:
        if rng.randrange(20):
            text = mutate(self.text, rng).decode("utf-8", "replace")
        else:
            text = json.dumps(mutate_json(json.loads(self.text), rng))
        try:
            metadata.parse(text, "fuzz")
        except OURS:
            return False
        return True


class BinqFiles:
    """Whole files of binq's own: header, geometry, padding, numbers."""

    def __init__(self, folder: Path) -> None:
        self.path = _binq_file(folder)
        self.data = self.path.read_bytes()

    def try_one(self, rng: random.Random) -> bool:
        self.path.write_bytes(mutate_file(self.data, rng))
        accepted = True
        try:
            for tensor in binq.load_file(self.path).values():
                if isinstance(tensor, binq.QuantizedArray) and tensor.size < 1 << 20:
                    tensor.dequantize()
        except OURS:
            accepted = False
        if rng.randrange(8) == 0:
            try:
                list(verify(self.path))
                inspect(self.path)
            except OURS:
                return False
        return accepted


class GgufFiles:
    """GGUF files of every type of blocks."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "m.gguf"
        self.examples = []
        config = {"general.architecture": "qwen3", "general.alignment": 32, "a.list": [1, 2, 3]}
        for kind in sorted(GGUF_GROUPS):
            written = Written(folder)
            tensors = {
                "blk.0.ffn_up.weight": gguf_tensor(written, "a", kind, (3, 512)),
                "blk.0.ffn_norm.weight": (GGUF_TYPES["F32"], (4,), bytes(16)),
            }
            self.examples.append(gguf_file(config, tensors))

    def try_one(self, rng: random.Random) -> bool:
        data = rng.choice(self.examples)
        changed = mutate(data[:300], rng) + data[300:] if rng.randrange(4) else mutate(data, rng)
        self.path.write_bytes(changed)
        return _reads(self.path, rng)


class Indexes:
    """The index of a folder: its weight map and all that it may point to."""

    def __init__(self, folder: Path) -> None:
        MODELS["gpt_oss"](folder)
        self.path = folder / "model.safetensors.index.json"
        self.text = self.path.read_bytes()

    def try_one(self, rng: random.Random) -> bool:
        if rng.randrange(2):
            text = mutate(self.text, rng)
        else:
            text = json.dumps(mutate_json(json.loads(self.text), rng)).encode()
        self.path.write_bytes(text)
        try:
            with Checkpoint(self.path.parent) as source:
                for name in source.names[:2]:
                    source.info(name)
        except OURS:
            return False
        return True


class Folders:
    """A folder of each model and scheme: configuration, headers and data.

    ``examples`` may be set to a folder with more of them, at any depth.
    """

    examples: Path | None = None

    def __init__(self, folder: Path) -> None:
        self.folders = [MODELS[name](folder / name).path for name in sorted(MODELS)]
        if self.examples is not None:
            for config in sorted(self.examples.rglob("config.json")):
                weights = config.with_name("model.safetensors")
                if weights.exists() and weights.stat().st_size <= 1 << 20:
                    copy = folder / f"example-{len(self.folders)}"
                    shutil.copytree(config.parent, copy, ignore=_small_files_only)
                    self.folders.append(copy)
        self.files = {path: _contents(path) for path in self.folders}
        self.target = folder / "target"

    def try_one(self, rng: random.Random) -> bool:
        path = rng.choice(self.folders)
        files = self.files[path]
        name = rng.choice(sorted(files))
        if "config.json" in files and rng.randrange(2):
            name = "config.json"
        data = files[name]
        if name.endswith(".json") and rng.randrange(4):
            changed = json.dumps(mutate_json(json.loads(data), rng)).encode()
        elif name.endswith(".safetensors"):
            changed = mutate_file(data, rng)
        else:
            changed = mutate(data[:3000], rng) + data[3000:]
        (path / name).write_bytes(changed)
        try:
            if rng.randrange(40) == 0:
                return self._converts(path)
            return self._look(path if name != "m.gguf" else path / name, rng)
        finally:
            (path / name).write_bytes(data)

    def _look(self, path: Path, rng: random.Random) -> bool:
        return _reads(path, rng)

    def _converts(self, path: Path) -> bool:
        try:
            binq.quantize_checkpoint(path, self.target, overwrite=True, nonfinite="zero")
            assert list(verify(self.target)) == []
        except (*OURS, NonFiniteError):
            return False
        return True


class Loads(Folders):
    """The same folders and those that binq writes of them, through binq.load."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        made = folder / "made"
        binq.quantize_checkpoint(folder / "qwen3", made)
        self.folders = [*self.folders[:20], made]
        self.files[made] = _contents(made)

    def _look(self, path: Path, rng: random.Random) -> bool:
        try:
            with binq.load(path) as tensors:
                tensors.describe()
                for name in rng.sample(list(tensors), min(3, len(tensors))):
                    tensors[name]
                if rng.randrange(30) == 0:
                    binq.dequantize_checkpoint(path, self.target, overwrite=True)
        except (*OURS, NonFiniteError):
            return False
        return True


class Evidence:
    """Files that say how inputs of weights lie: importance matrices and calibrations."""

    def __init__(self, folder: Path) -> None:
        self.matrix, self.calibration = folder / "m.gguf", folder / "c.safetensors"
        sums = {
            "a.in_sum2": (0, (2, 8), np.ones((2, 8), np.float32).tobytes()),
            "a.counts": (0, (2, 1), np.ones((2, 1), np.float32).tobytes()),
        }
        self.gguf = gguf_file({"general.type": "imatrix"}, sums)
        calibrator = binq.Calibrator()
        rng = np.random.default_rng(0)
        for names in (("a", "b"), ("c",)):
            calibrator.update(names, rng.standard_normal((4, 8), dtype=np.float32))
        calibrator.save(self.calibration)
        self.safetensors = self.calibration.read_bytes()

    def try_one(self, rng: random.Random) -> bool:
        try:
            if rng.randrange(2):
                self.matrix.write_bytes(mutate(self.gguf, rng))
                read_imatrix(self.matrix)
            else:
                self.calibration.write_bytes(mutate_file(self.safetensors, rng))
                found = binq.Calibrator.load(self.calibration)
                for name in found:
                    found[name]
        except OURS:
            return False
        return True


KINDS = {
    "headers": Headers,
    "descriptions": Descriptions,
    "binq": BinqFiles,
    "gguf": GgufFiles,
    "indexes": Indexes,
    "folders": Folders,
    "loads": Loads,
    "evidence": Evidence,
}


def _reads(path: Path, rng: random.Random) -> bool:
    """Returns whether a checkpoint opens, and some of its weights are read."""
    try:
        with Checkpoint(path) as source:
            tensors = logical_tensors(source)
            for tensor in rng.sample(tensors, min(2, len(tensors))):
                if len(tensor.shape) < 2 or tensor.size == 0:
                    tensor.read(source)
                    continue
                rows = min(3, tensor.shape[-2])
                tensor.read_rows(source, rng.randrange(tensor.matrices), 0, rows)
                exact = tensor.exact_format(source)
                if exact is not None:
                    tensor.exact_rows(source, exact, 0, 0, rows).dequantize()
    except OURS:
        return False
    return True


def _binq_file(folder: Path) -> Path:
    """Writes a small file with a packed tensor of each format, and plain ones."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((2, 33, 40), dtype=np.float32)
    tensors = {
        "a": binq.quantize(w[0], "int4", group_size=32),
        "b": binq.quantize(w[0], "int4", group_size=32, symmetric=False),
        "c": binq.quantize(w, "ternary", group_size=64),
        "d": binq.quantize(w[0], "binary", group_size=None, symmetric=False),
        "n": np.arange(5, dtype=np.float16),
    }
    binq.save_file(tensors, folder / "m.safetensors", {"format": "np"})
    return folder / "m.safetensors"


def _small_files_only(folder: str, names: list[str]) -> list[str]:
    paths = (Path(folder, name) for name in names)
    return [path.name for path in paths if not path.is_file() or path.stat().st_size > 1 << 20]


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
