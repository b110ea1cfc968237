"""The folder ``dst.partial``: shards that are done, one result each, and who works there."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, as_completed, wait
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from binq._version import __version__
from binq.checkpoint.fingerprint import conversion_fingerprint, source_sample
from binq.checkpoint.lock import Lock, create
from binq.checkpoint.plan import Plan, Settings
from binq.checkpoint.shard import Progress
from binq.checkpoint.source import INDEX, Checkpoint
from binq.checkpoint.task import (
    MANIFEST,
    read_manifest,
    read_result,
    result_path,
    run_shard,
    write_one,
)
from binq.files.metadata import VERSION
from binq.files.writer import replacing, sync_folder

# What lay at the target and is replaced, from the last rename but one until it is deleted.
REPLACED = ".binq-replaced"
# Files that hold weights in some way: everything else is copied.
_WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx")
_LOCKS = re.compile(r"binq-conversion(-\d+-of-\d+)?\.lock")
_TEMPORARIES = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")


class Work:
    """One conversion's folder, from its first file to its final name.

    - source, target: what is read; the folder that appears in the end, with all links resolved
    - plan, settings: what is done
    """

    def __init__(self, source: Checkpoint, target: Path, plan: Plan, settings: Settings) -> None:
        self.source, self.target, self.plan, self.settings = source, target, plan, settings
        self.folder = target.with_name(target.name + ".partial")
        self.fingerprint = conversion_fingerprint(source, settings)

    @contextmanager
    def opened(self, join: bool, overwrite: bool, part: tuple[int, int] | None) -> Iterator[None]:
        """Holds the folder for this process; ``join``: goes on with work that is there.

        Raises FileExistsError where another process works there or something else is in the way,
        ValueError for work on another source or with other settings.
        """
        self._check_ours()
        self.folder.mkdir(exist_ok=True)
        with Lock(self.folder, part):
            if not join:
                self._clear(overwrite)
            manifest = self.folder / MANIFEST
            create(manifest, json.dumps({"fingerprint": self.fingerprint}))
            if read_manifest(manifest) != self.fingerprint:
                raise ValueError(
                    f"{self.folder} holds work on another source or with other settings: "
                    "delete it, or run with the settings it was begun with"
                )
            yield

    def left(self, part: tuple[int, int] | None) -> list[int]:
        """Returns the shards that are still to be done, of all or of one part."""
        numbers = range(len(self.plan.shards))
        mine = (n for n in numbers if part is None or n % part[1] == part[0] - 1)
        return [n for n in mine if self._result(n) is None]

    def bytes_of(self, numbers: Sequence[int]) -> int:
        """Returns the bytes of the source behind some shards."""
        return sum(i.bytes_before(self.source) for n in numbers for i in self.plan.shards[n])

    def run(self, numbers: Sequence[int], executor: Executor | None, advance: Progress) -> None:
        """Writes shards, here or where the executor runs them."""
        if executor is None:
            for n in numbers:
                write_one(
                    self.source, self.plan.shards[n], self._shard(n), self.fingerprint, advance
                )
            return
        src = str(self.source.path.absolute())  # a worker may have another working folder
        mark = self.fingerprint
        tasks = {
            executor.submit(run_shard, src, self.plan.shards[n], self._shard(n), mark): n
            for n in numbers
        }
        try:
            for task in as_completed(tasks):
                task.result()
                advance(self.bytes_of([tasks[task]]))
        except BaseException:
            # Who catches this may begin again at once: nobody must be writing by then.
            for task in tasks:
                task.cancel()
            wait(tasks)
            raise

    def results(self) -> list[dict[str, Any]]:
        """Returns the results of the shards that are done, in order."""
        found = (self._result(n) for n in range(len(self.plan.shards)))
        return [result for result in found if result is not None]

    def complete(self, overwrite: bool) -> None:
        """Writes index and config, copies the other files, and gives the folder its name.

        Raises ValueError where shards are missing, FileExistsError for a target that was filled
        meanwhile. A kill at any point loses nothing: what marks
        the shards as done is deleted when the folder has its name.
        """
        missing = self.left(None)
        if missing:
            names = ", ".join(self.plan.shard_name(n) for n in missing[:5])
            raise ValueError(f"{len(missing)} shards are not done yet: {names}")
        sizes = {name: size for r in self.results() for name, size in r["sizes"].items()}
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": self._weight_map(),
        }
        self._remove_strays()
        _write_json(self.folder / INDEX, index)
        _write_json(self.folder / "config.json", self._config)
        self._copy_others()
        sync_folder(self.folder)
        if self.target.exists():
            if any(self.target.iterdir()) and not overwrite:
                raise FileExistsError(_NOT_EMPTY.format(self.target))
            with suppress(FileNotFoundError):
                shutil.rmtree(self.folder / REPLACED)
            self.target.rename(self.folder / REPLACED)
        self.folder.rename(self.target)
        sync_folder(self.target.parent)
        self._tidy()

    def is_complete(self) -> bool:
        """Returns whether the target is what this conversion makes: a kill came after the end.

        No file of the source may be newer, as ``make`` has it.
        """
        if self.folder.exists():
            return False
        with suppress(OSError, ValueError, KeyError, TypeError):
            made = (self.target / INDEX).stat().st_mtime_ns
            if any(p.stat().st_mtime_ns > made for p in self.source.file_paths().values()):
                return False
            config = json.loads((self.target / "config.json").read_text())
            index = json.loads((self.target / INDEX).read_text())
            shards = {self.plan.shard_name(n) for n in range(len(self.plan.shards))}
            written = {path.name for path in self.target.glob("*.safetensors")}
            expected = json.loads(json.dumps([self._config, self._weight_map()]))
            if [config, index["weight_map"]] == expected and shards == written:
                self._tidy()
                return True
        return False

    def _tidy(self) -> None:
        """Deletes what served the work only from the finished folder."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.target / REPLACED)
        for n in range(len(self.plan.shards)):
            result_path(self.target / self.plan.shard_name(n)).unlink(missing_ok=True)
        for path in self.target.glob("*.lock"):
            if _LOCKS.fullmatch(path.name):
                path.unlink(missing_ok=True)
        (self.target / MANIFEST).unlink(missing_ok=True)
        sync_folder(self.target)

    def _check_ours(self) -> None:
        """Raises FileExistsError where ``dst.partial`` is not a conversion's work."""
        if not self.folder.exists():
            return
        paths = list(self.folder.iterdir()) if self.folder.is_dir() else [self.folder]
        ours = any(path.name == MANIFEST for path in paths)
        for path in paths:
            known = ours or _LOCKS.fullmatch(path.name) or _TEMPORARIES.fullmatch(path.name)
            if not known or (path.is_dir() and path.name != REPLACED):
                raise FileExistsError(f"{path} is in the way: move it, or delete it")

    def _clear(self, overwrite: bool) -> None:
        """Throws unfinished work away, but not what a target was about to be replaced with it."""
        replaced = self.folder / REPLACED
        if replaced.exists():
            if not self.target.exists():
                replaced.rename(self.target)
                if not overwrite:
                    raise FileExistsError(_NOT_EMPTY.format(self.target))
            else:
                shutil.rmtree(replaced)
        for path in self.folder.iterdir():
            if not _LOCKS.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _remove_strays(self) -> None:
        """Removes what killed processes left: temporary files, locks, files of another plan."""
        ours = {MANIFEST, REPLACED, Lock(self.folder).path.name}
        for n in range(len(self.plan.shards)):
            ours.update((self._shard(n).name, result_path(self._shard(n)).name))
        for path in self.folder.iterdir():
            if path.name not in ours:
                path.unlink(missing_ok=True)

    def _shard(self, n: int) -> Path:
        return self.folder / self.plan.shard_name(n)

    def _result(self, n: int) -> dict[str, Any] | None:
        return read_result(self._shard(n), self.fingerprint)

    def _weight_map(self) -> dict[str, str]:
        places = {
            name: self.plan.shard_name(n)
            for n, shard in enumerate(self.plan.shards)
            for item in shard
            for name in item.output_names
        }
        return dict(sorted(places.items()))

    @cached_property
    def _config(self) -> dict[str, Any]:
        config = {} if self.source.is_gguf else dict(self.source.config)
        # MLX has its settings twice.
        keys = ("quantization", "compression_config", "quantization_config")
        before = [value for key in keys if (value := config.pop(key, None)) is not None]
        settings = self.settings
        block: dict[str, Any] = {
            "quant_method": "binq",
            "version": VERSION,
            "binq_version": __version__,
            "format": settings.default.format,
            "group_size": settings.default.group_size,
            "method": settings.default.method,
            "symmetric": settings.default.symmetric,
            "nonfinite": settings.default.nonfinite,
            "rules": list(settings.rules),
            "embeddings": settings.embeddings,
            "lm_head": settings.lm_head,
            "source_sample": source_sample(self.source),
            "transposed": sorted(
                item.tensor.name
                for item in self.plan.items
                if not item.kept and item.tensor.scheme == "transposed"
            ),
            "kept": sorted(item.tensor.name for item in self.plan.items if item.kept),
        }
        if before:
            block["source_quantization_config"] = before[-1]
        return config | {"quantization_config": block}

    def _copy_others(self) -> None:
        if self.source.is_gguf or not self.source.path.is_dir():
            return
        ours = {*self.source.files, INDEX, "config.json", MANIFEST}
        for path in sorted(self.source.path.iterdir()):
            if path.name in ours or _LOCKS.fullmatch(path.name) or not path.is_file():
                continue
            if path.suffix in _WEIGHT_SUFFIXES or path.name.endswith(".index.json"):
                continue
            with replacing(self.folder / path.name) as temporary:
                shutil.copyfile(path, temporary)


_NOT_EMPTY = "dst: {} is not empty: overwrite=True (--overwrite) replaces it"
_ANOTHER = (
    "dst: {} is not empty, and not what this conversion makes: the source is newer, a setting "
    "differs, or files are missing; overwrite=True (--overwrite) replaces it"
)


def check_target(source: Checkpoint, target: Path, overwrite: bool, joins: bool = False) -> None:
    """Raises FileExistsError or ValueError where writing to ``target`` would lose something.

    ``joins``: the target was expected to be complete, and is not.
    """
    folder = source.path if source.path.is_dir() else source.path.parent
    if not target.exists():
        if not target.parent.is_dir():
            raise FileNotFoundError(f"dst: the folder {target.parent} does not exist")
        return
    if target.samefile(folder) or target.samefile(source.path):
        raise ValueError(f"dst must not be the source itself, got {target}")
    files = [folder, *source.file_paths().values()]
    if any(target in path.resolve().parents for path in files):
        raise ValueError(f"dst must not hold the source, got {target}, which holds {folder}")
    if not target.is_dir():
        raise FileExistsError(f"dst: {target} is a file")
    if any(target.iterdir()) and not overwrite:
        raise FileExistsError((_ANOTHER if joins else _NOT_EMPTY).format(target))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
