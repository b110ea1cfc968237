"""quantize_checkpoint: a checkpoint folder in, a packed checkpoint folder out."""

import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from binq._checks import check_int
from binq._version import __version__
from binq.checkpoint.lock import WHOLE, Lock
from binq.checkpoint.plan import Item, Plan, Settings, make_plan
from binq.checkpoint.report import Report, TensorReport
from binq.checkpoint.rules import Choice, check_choice_of
from binq.checkpoint.shard import Progress, write_shard
from binq.checkpoint.source import INDEX, Checkpoint
from binq.files.metadata import VERSION
from binq.files.writer import replacing, sync_folder

MANIFEST = "binq-conversion.json"
# Files that hold weights in some way: everything else is copied.
_WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx")


def quantize_checkpoint(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    format: str = "int4",
    *,
    group_size: int | None = 128,
    method: str | None = None,
    symmetric: bool = True,
    rules: Iterable[str] = (),
    embeddings: str | None = None,
    lm_head: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    dry_run: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    part: tuple[int, int] | None = None,
    finalize: bool = False,
    executor: Executor | None = None,
    progress: bool | Progress = False,
) -> Report:
    """Returns a report of quantizing a checkpoint folder (or GGUF file) into a new folder.

    Linear weights, experts included, are packed; norms, routers, embeddings and whatever the
    model's family keeps are copied as they are stored (docs/checkpoints.md). Weights that already
    are low-bit stay exactly what they are. Everything is streamed: memory is bounded by a
    block of rows for each thread (at most 8), 32 MiB at up to three times its size, and the scales
    of the largest tensor, however large the checkpoint is; ``Report.peak_bytes`` says it in bytes.

    - src: a folder with ``model.safetensors`` or ``model.safetensors.index.json``, or a GGUF file
    - dst: the folder to make; its name appears when it is complete, until then the work lies in
      ``dst.partial``
    - format, group_size, method, symmetric: as for :func:`binq.quantize`; the method's default is
      ``"mse"``
    - rules: ``"GLOB=FORMAT[:gN][:METHOD]"`` or ``"GLOB=keep"``, the first that matches a tensor's
      name wins; one that matches nothing is an error
    - embeddings, lm_head: a format such as ``"int4:g64"`` for these, which are kept otherwise;
      embeddings serves for both
    - max_shard_bytes: where a new file begins
    - dry_run: plan only, write nothing
    - overwrite: replace what lies at dst; resume: go on with the work of a killed run of the same
      settings on the same source, with the same bytes in the end
    - part: ``(i, n)``, i from 1: do every n-th shard only, beside other parts; finalize: check
      that all parts are there and complete dst
    - executor: any concurrent.futures.Executor that runs the shards (threads, processes, Dask)
    - progress: True for a bar on a terminal, or a function called with numbers of bytes

    Raises ValueError for settings, FileExistsError for an existing dst, FormatError and
    UnsupportedFormatError for the source, NonFiniteError naming the tensor.

    >>> import binq, numpy as np, pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "src").mkdir()
    >>> _ = (folder / "src" / "config.json").write_text('{"model_type": "qwen3"}')
    >>> w = {"model.layers.0.mlp.up_proj.weight": np.arange(8192.0).reshape(64, 128)}
    >>> binq.save_file(w, folder / "src" / "model.safetensors")
    >>> report = binq.quantize_checkpoint(folder / "src", folder / "dst", "int4")
    >>> report.bytes_before, report.bytes_after
    (65536, 4224)
    """
    method = method or "mse"
    default = check_choice_of(Choice(format, group_size, method, symmetric))
    check_int("max_shard_bytes", max_shard_bytes, 1, 2**60)
    settings = Settings(default, tuple(rules), embeddings, lm_head, max_shard_bytes)
    part = _check_part(part)
    # A link stays a link: the folder behind it is replaced.
    target = Path(os.path.realpath(dst))
    with Checkpoint(src) as source:
        plan = make_plan(source, settings)
        if dry_run:
            return _planned(source, target, plan)
        started = time.perf_counter()
        work = _Work(source, target, plan, settings)
        if resume and work.is_complete():
            return _planned(source, target, plan, dry_run=False)
        _check_target(source, target, overwrite)
        with work.locked(resume or part is not None or finalize, None if finalize else part):
            if not finalize:
                numbers = range(len(plan.shards))
                mine = [n for n in numbers if part is None or n % part[1] == part[0] - 1]
                with _bar(progress, work.bytes_of(mine)) as advance:
                    work.run(mine, executor, advance)
            report = work.report()
            if part is None:
                work.complete(overwrite)
        report.seconds = time.perf_counter() - started
    return report


def _check_part(part: tuple[int, int] | None) -> tuple[int, int] | None:
    if part is None:
        return None
    try:
        i, n = part
    except (TypeError, ValueError):
        raise ValueError(f"part must be (i, n), got {part!r}") from None
    n = check_int("part[1]", n, 1)
    return check_int("part[0]", i, 1, n), n


def _check_target(source: Checkpoint, target: Path, overwrite: bool) -> None:
    """Raises FileExistsError or ValueError where writing to ``target`` would lose something."""
    folder = source.path if source.path.is_dir() else source.path.parent
    if not target.exists():
        if not target.parent.is_dir():
            raise FileNotFoundError(f"dst: the folder {target.parent} does not exist")
        return
    if target.samefile(folder) or target.samefile(source.path):
        raise ValueError(f"dst must not be the source itself, got {target}")
    files = [folder, *(folder / name for name in source.files)]
    if any(target in Path(os.path.realpath(path)).parents for path in files):
        raise ValueError(f"dst must not hold the source, got {target}, which holds {folder}")
    if not target.is_dir():
        raise FileExistsError(f"dst: {target} is a file")
    if any(target.iterdir()) and not overwrite:
        raise FileExistsError(f"dst: {target} is not empty: pass overwrite=True to replace it")


class _Work:
    """The folder ``dst.partial``: finished shards, one report each, and a manifest."""

    def __init__(self, source: Checkpoint, target: Path, plan: Plan, settings: Settings) -> None:
        self.source, self.target, self.plan, self.settings = source, target, plan, settings
        self.folder = target.with_name(target.name + ".partial")
        self.fingerprint = _fingerprint(source, settings)

    def locked(self, join: bool, part: tuple[int, int] | None) -> Lock:
        """Opens the folder for this process; ``join``: go on with work that is there."""
        manifest = self.folder / MANIFEST
        lock = Lock(self.folder, part)
        if self.folder.exists():
            if not _is_work(self.folder):
                raise FileExistsError(f"{self.folder} is in the way: move it, or delete it")
            if not join:
                lock.check_free()
                shutil.rmtree(self.folder)
        self.folder.mkdir(exist_ok=True)
        if manifest.exists():
            if json.loads(manifest.read_text())["fingerprint"] != self.fingerprint:
                raise ValueError(
                    f"{self.folder} holds work on another source or with other settings: "
                    "delete it, or run with the settings it was begun with"
                )
        else:
            with replacing(manifest) as temporary:
                temporary.write_text(json.dumps({"fingerprint": self.fingerprint}))
        return lock

    def bytes_of(self, numbers: Sequence[int]) -> int:
        """Returns the bytes of the source behind the shards that are still to be done."""
        items = (i for n in numbers if not self._done(n) for i in self.plan.shards[n])
        return sum(item.bytes_before(self.source) for item in items)

    def run(self, numbers: Sequence[int], executor: Executor | None, advance: Progress) -> None:
        """Writes the shards that are not there yet."""
        left = [n for n in numbers if not self._done(n)]
        if executor is None:
            for n in left:
                write_one(self.source, self.plan.shards[n], self._shard(n), advance)
            return
        tasks = {
            executor.submit(
                run_shard, str(self.source.path), self.plan.shards[n], self._shard(n)
            ): n
            for n in left
        }
        try:
            for task in as_completed(tasks):
                task.result()
                advance(sum(i.bytes_before(self.source) for i in self.plan.shards[tasks[task]]))
        except BaseException:
            for task in tasks:
                task.cancel()
            raise

    def report(self) -> Report:
        """Returns the report over the shards that are done."""
        report = Report(str(self.source.path), str(self.target), peak_bytes=self.plan.peak_bytes)
        for n in range(len(self.plan.shards)):
            if self._done(n):
                for entry in json.loads(_result_path(self._shard(n)).read_text())["tensors"]:
                    entry["shape"] = tuple(entry["shape"])
                    report.tensors.append(TensorReport(**entry))
        return report

    def complete(self, overwrite: bool) -> None:
        """Writes index and config, copies the other files, and gives the folder its name."""
        missing = [n for n in range(len(self.plan.shards)) if not self._done(n)]
        if missing:
            names = ", ".join(self.plan.shard_name(n) for n in missing[:5])
            raise ValueError(f"{len(missing)} shards are not done yet: {names}")
        results = [
            json.loads(_result_path(self._shard(n)).read_text())
            for n in range(len(self.plan.shards))
        ]
        sizes = {name: (r["file"], size) for r in results for name, size in r["sizes"].items()}
        index = {
            "metadata": {"total_size": sum(size for _, size in sizes.values())},
            "weight_map": {name: sizes[name][0] for name in sorted(sizes)},
        }
        self._remove_strays()
        _write_json(self.folder / INDEX, index)
        _write_json(self.folder / "config.json", self._config())
        self._copy_others()
        for n in range(len(self.plan.shards)):
            _result_path(self._shard(n)).unlink()
        (self.folder / MANIFEST).unlink()
        (self.folder / "lock").unlink(missing_ok=True)
        sync_folder(self.folder)
        if overwrite and self.target.exists():
            old = self.target.with_name(f"{self.target.name}.old-{os.getpid()}")
            self.target.rename(old)
            self.folder.rename(self.target)
            shutil.rmtree(old)
        else:
            if self.target.exists():
                self.target.rmdir()
            self.folder.rename(self.target)
        sync_folder(self.target.parent)

    def is_complete(self) -> bool:
        """Returns whether the target is what this conversion makes: a kill came after the end."""
        if self.folder.exists():
            return False
        with suppress(OSError, ValueError, KeyError, TypeError):
            config = json.loads((self.target / "config.json").read_text())
            shards = {self.plan.shard_name(n) for n in range(len(self.plan.shards))}
            index = json.loads((self.target / INDEX).read_text())
            written = {path.name for path in self.target.glob("*.safetensors")}
            same = bool(config == json.loads(json.dumps(self._config())))
            return same and shards == written == set(index["weight_map"].values())
        return False

    def _remove_strays(self) -> None:
        """Removes what killed processes left: temporary files, locks, files of another plan."""
        ours = {MANIFEST, WHOLE}
        for n in range(len(self.plan.shards)):
            ours.update((self._shard(n).name, _result_path(self._shard(n)).name))
        for path in self.folder.iterdir():
            if path.name not in ours:
                path.unlink(missing_ok=True)

    def _shard(self, n: int) -> Path:
        return self.folder / self.plan.shard_name(n)

    def _done(self, n: int) -> bool:
        return _result_path(self._shard(n)).exists() and self._shard(n).exists()

    def _config(self) -> dict[str, Any]:
        config = {} if self.source.is_gguf else dict(self.source.config)
        before = config.pop("quantization_config", None)
        default = self.settings.default
        block: dict[str, Any] = {
            "quant_method": "binq",
            "version": VERSION,
            "binq_version": __version__,
            "format": default.format,
            "group_size": default.group_size,
            "method": default.method,
            "symmetric": default.symmetric,
            "rules": list(self.settings.rules),
            "transposed": sorted(
                item.tensor.name
                for item in self.plan.items
                if not item.kept and item.tensor.scheme == "transposed"
            ),
            "kept": sorted(item.tensor.name for item in self.plan.items if item.kept),
        }
        if before is not None:
            block["source_quantization_config"] = before
        return config | {"quantization_config": block}

    def _copy_others(self) -> None:
        if self.source.is_gguf or not self.source.path.is_dir():
            return
        weights = {*self.source.files, INDEX, "config.json"}
        for path in sorted(self.source.path.iterdir()):
            if path.name in weights or not path.is_file():
                continue
            if path.suffix in _WEIGHT_SUFFIXES or path.name.endswith(".index.json"):
                continue
            with replacing(self.folder / path.name) as temporary:
                shutil.copyfile(path, temporary)


def _is_work(folder: Path) -> bool:
    """Returns whether a folder ``dst.partial`` is a conversion's work and not the user's own."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {"file"}
    if MANIFEST in names or all(name.startswith((".", WHOLE)) for name in names):
        return True
    # Killed just before it got its final name.
    with suppress(OSError, ValueError, KeyError, TypeError):
        config = json.loads((folder / "config.json").read_text())
        return bool(config["quantization_config"]["quant_method"] == "binq")
    return False


def run_shard(src: str, items: Sequence[Item], path: Path) -> str:
    """Does one shard in another thread, process or machine; returns its file name.

    May run any number of times: the bytes are the same each time, and a shard that is there is
    left alone.
    """
    if not (path.exists() and _result_path(path).exists()):
        with Checkpoint(src) as source:
            write_one(source, items, path, lambda _: None)
    return path.name


def write_one(source: Checkpoint, items: Sequence[Item], path: Path, advance: Progress) -> None:
    """Writes one shard and, after it, the report that marks it as done."""
    result = write_shard(source, items, path, advance)
    with replacing(_result_path(path)) as temporary:
        # JSON has no infinity: Python's own spelling is read back by Python only, which suffices.
        temporary.write_text(json.dumps(result))


def _result_path(shard: Path) -> Path:
    return shard.with_suffix(".report.json")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _fingerprint(source: Checkpoint, settings: Settings) -> str:
    """Returns a hash of the settings and of every source file's name, size and time."""
    folder = source.path if source.path.is_dir() else source.path.parent
    files = []
    for name in source.files:
        status = (folder / name).stat()
        files.append((name, status.st_size, status.st_mtime_ns))
    text = repr((settings, files, sorted(source.config.items(), key=str), __version__))
    return sha256(text.encode()).hexdigest()


def _planned(source: Checkpoint, target: Path, plan: Plan, dry_run: bool = True) -> Report:
    report = Report(str(source.path), str(target), dry_run=dry_run, peak_bytes=plan.peak_bytes)
    for item in plan.items:
        report.tensors.append(
            TensorReport(
                item.tensor.name,
                item.tensor.shape,
                item.label,
                item.tensor.role,
                item.bytes_before(source),
                item.bytes_after(source),
                item.reason,
            )
        )
    return report


class _bar:  # noqa: N801
    """A progress bar on a terminal, a user's own function, or nothing."""

    def __init__(self, progress: bool | Progress, total: int) -> None:
        self.bar: Any = None
        self.advance: Progress = lambda _: None
        if callable(progress):
            self.advance = progress
        elif progress:
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit="B", unit_scale=True, disable=None)
            self.advance = self.bar.update

    def __enter__(self) -> Progress:
        return self.advance

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
