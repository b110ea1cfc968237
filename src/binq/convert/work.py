"""The folder ``dst.partial``: shards that are done, one result each, and who works there."""

import errno
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed, wait
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from binq.convert.card import README, SOURCE_README, card, copied_as
from binq.convert.destination import (
    REPLACED,
    check_free,
    check_ours,
    clear,
    delete_folder,
    is_of_system,
    is_of_work,
    move_in,
    partial_of,
    restore,
)
from binq.convert.fingerprint import conversion_fingerprint
from binq.convert.item import Settings
from binq.convert.lock import LOCK_NAMES, Lock
from binq.convert.output import other_files, output_config, weight_map
from binq.convert.plan import Plan
from binq.convert.report import REPORT, Report
from binq.convert.shard import Progress
from binq.convert.task import (
    MANIFEST,
    read_manifest,
    read_result,
    result_path,
    run_shard,
    write_one,
)
from binq.files.checkpoint import INDEX, Checkpoint
from binq.files.replacing import TEMPORARY, create_file, replacing, sync_folder
from binq.models.gguf_folder import folder_of


class Work:
    """One conversion's folder, from its first file to its final name.

    - source, target: what is read; the folder that appears in the end, with all links resolved
    - plan, settings: what is done
    - fingerprint: that of source and settings, from before the plan was made of them
    """

    def __init__(
        self, source: Checkpoint, target: Path, plan: Plan, settings: Settings, fingerprint: str
    ) -> None:
        self.source, self.target, self.plan, self.settings = source, target, plan, settings
        self.folder = partial_of(target)
        self.fingerprint = fingerprint

    @contextmanager
    def opened(self, join: bool, overwrite: bool, part: tuple[int, int] | None) -> Iterator[None]:
        """Holds the folder for this process; ``join``: goes on with work that is there.

        Raises FileExistsError where another process works there or something else is in the way,
        ValueError for work on another source or with other settings.
        """
        check_ours(self.folder, MANIFEST)
        for path in self._others:
            if not os.access(path, os.R_OK):
                raise PermissionError(errno.EACCES, "cannot be read, to be copied", str(path))
        self.folder.mkdir(exist_ok=True)
        lock = Lock(self.folder, part)
        try:
            with lock:
                # Another process may have completed the work since the last look.
                self.check_free(overwrite, join)
                if not join:
                    restore(self.folder, self.target, overwrite)
                    clear(self.folder, MANIFEST)
                self._check_manifest()
                if part is None:
                    self._remove_strays()
                elif lock.dead is not None:
                    self._remove_temporaries(part, lock.dead)
                yield
        finally:
            # Where nothing was begun, nothing stays.
            with suppress(OSError):
                self.folder.rmdir()

    def check_begun(self) -> None:
        """Raises FileNotFoundError where there is no work that could be completed."""
        if not self.folder.exists():
            raise FileNotFoundError(
                errno.ENOENT, "no part was begun, so there is nothing to complete", str(self.folder)
            )

    def check_free(self, overwrite: bool, joins: bool) -> None:
        """Raises FileExistsError where the target exists and may not be replaced.

        ``joins``: the target was expected to be complete, and is not.
        """
        begun = (self.folder / MANIFEST).exists()
        check_free(self.target, overwrite, _UNFINISHED if begun else _ANOTHER if joins else None)

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
        tasks: dict[Future[str], int] = {}
        try:
            for n in numbers:
                task = executor.submit(run_shard, src, self.plan.shards[n], self._shard(n), mark)
                tasks[task] = n
            for task in as_completed(tasks):
                task.result()
                advance(self.bytes_of([tasks[task]]))
        except BaseException:
            # The caller may start again at once: no thread may still be writing.
            for task in tasks:
                task.cancel()
            wait(tasks)
            raise

    def check_source(self) -> None:
        """Raises ValueError where the source is not what it was when the work began."""
        with Checkpoint(self.source.path) as now:
            if conversion_fingerprint(now, self.settings) == self.fingerprint:
                return
        raise ValueError(
            f"src: {self.source.path} changed while it was read: start again, without resume"
        )

    def results(self) -> list[dict[str, Any]]:
        """Returns the results of the shards that are done, in order."""
        found = (self._result(n) for n in range(len(self.plan.shards)))
        return [result for result in found if result is not None]

    def complete(self, overwrite: bool, report: Report) -> None:
        """Writes index, config, report and card, copies the other files, gives the folder its name.

        Raises ValueError where shards are missing, FileExistsError for a target that was filled
        meanwhile. A kill at any point loses nothing: what marks the shards as done is deleted when
        the folder has its name.
        """
        results = [self._result(n) for n in range(len(self.plan.shards))]
        missing = [self.plan.shard_name(n) for n, result in enumerate(results) if result is None]
        if missing:
            names = ", ".join(missing[:5])
            raise ValueError(f"{len(missing)} shards are not done yet: {names}")
        nbytes = sum(sum(result["sizes"].values()) for result in results if result is not None)
        index = {"metadata": {"total_size": nbytes}, "weight_map": weight_map(self.plan)}
        self._remove_strays()  # those of workers that were killed in this run
        _write_json(self.folder / INDEX, index, self.source.mode)
        _write_json(self.folder / "config.json", self._config, self._config_mode)
        for name, text in (self._made | {REPORT: report.to_saved()}).items():
            _write(self.folder / name, text, self.source.mode)
        copied = copied_as(self._others)
        if README not in copied:
            self._write_card(report, copied.get(SOURCE_README))
        self._copy_others()
        sync_folder(self.folder)
        move_in(self.folder, self.target, overwrite)
        self.tidy()

    def is_complete(self) -> bool:
        """Returns whether the target is what this conversion makes: a kill came after the end.

        No file of the source may be newer, as ``make`` has it.
        """
        if self.folder.exists():
            return False
        with suppress(OSError, ValueError, KeyError, TypeError):
            made = (self.target / INDEX).stat().st_mtime_ns
            others = self._others
            evidence = (self.settings.importance, self.settings.calibration)
            known = (Path(file.path) for file in evidence if file is not None)
            files = [*self.source.file_paths().values(), *others, *known]
            if any(path.stat().st_mtime_ns > made for path in files):
                return False
            config = json.loads((self.target / "config.json").read_text())
            index = json.loads((self.target / INDEX).read_text())
            shards = {self.plan.shard_name(n) for n in range(len(self.plan.shards))}
            written = {path.name for path in self.target.glob("*.safetensors")}
            expected = json.loads(json.dumps([self._config, weight_map(self.plan)]))
            same = [config, index["weight_map"]] == expected and shards == written
            names = {README, *self._made, *copied_as(others)}
            return same and all((self.target / name).exists() for name in names)
        return False

    def tidy(self) -> None:
        """Deletes what served the work only from the finished folder, and what it replaced.

        Warns where the latter cannot be deleted: the work is done all the same.
        """
        for n in range(len(self.plan.shards)):
            result_path(self.target / self.plan.shard_name(n)).unlink(missing_ok=True)
        for path in self.target.glob("*.lock"):
            if LOCK_NAMES.fullmatch(path.name):
                path.unlink(missing_ok=True)
        (self.target / MANIFEST).unlink(missing_ok=True)
        try:
            delete_folder(self.target / REPLACED)
        except OSError as error:
            warnings.warn(
                f"{self.target} is complete; what lay there before is in {REPLACED} within it and "
                f"cannot be deleted: {error}",
                stacklevel=2,
            )
        sync_folder(self.target)

    def _check_manifest(self) -> None:
        """Raises ValueError for work on another source or with other settings."""
        manifest = self.folder / MANIFEST
        create_file(manifest, json.dumps({"fingerprint": self.fingerprint}))
        if read_manifest(manifest) == self.fingerprint:
            return
        old = self.folder / REPLACED
        first = f"move {old} away, which was {self.target} before, then " if old.exists() else ""
        raise ValueError(
            f"{self.folder} holds work on another source or with other settings: "
            f"{first}delete it, or run with the settings it was begun with"
        )

    def _remove_strays(self) -> None:
        """Removes what killed processes left: temporary files, locks, files of another plan."""
        ours = {MANIFEST, REPLACED, Lock(self.folder).path.name}
        for n in range(len(self.plan.shards)):
            ours.update((self._shard(n).name, result_path(self._shard(n)).name))
        for path in self.folder.iterdir():
            if path.name not in ours and not is_of_system(path.name):
                path.unlink(missing_ok=True)

    def _remove_temporaries(self, part: tuple[int, int], pid: int) -> None:
        """Removes the temporary files of one part that a killed process left."""
        for n in range(part[0] - 1, len(self.plan.shards), part[1]):
            shard = self._shard(n)
            for final in (shard, result_path(shard)):
                for path in self.folder.glob(f".{final.name}.{pid}-*"):
                    if TEMPORARY.fullmatch(path.name):
                        path.unlink(missing_ok=True)

    def _shard(self, n: int) -> Path:
        return self.folder / self.plan.shard_name(n)

    def _result(self, n: int) -> dict[str, Any] | None:
        return read_result(self._shard(n), self.fingerprint)

    @cached_property
    def _config(self) -> dict[str, Any]:
        return output_config(self.source, self.plan, self.settings)

    @cached_property
    def _made(self) -> dict[str, str]:
        """Returns name -> text of the files that are made of the source's metadata."""
        return folder_of(self.source, self.settings.family).files

    @property
    def _config_mode(self) -> int:
        """Returns the permissions that both the weights and their configuration have."""
        with suppress(OSError):
            return self.source.mode & (self.source.path / "config.json").stat().st_mode | 0o600
        return self.source.mode

    @property
    def _others(self) -> list[Path]:
        """Returns the files that are copied."""
        ours = {MANIFEST, REPLACED}
        ours.update(result_path(self._shard(n)).name for n in range(len(self.plan.shards)))
        others = other_files(self.source)
        return [p for p in others if p.name not in ours and not is_of_work(p.name)]

    def _write_card(self, report: Report, readme: Path | None) -> None:
        """Writes README.md, which says what configuration and README of the source say."""
        mode = self._config_mode & (0o666 if readme is None else readme.stat().st_mode) | 0o600
        _write(self.folder / README, card(self.source, self._config, report, readme), mode)

    def _copy_others(self) -> None:
        for name, path in copied_as(self._others).items():
            with replacing(self.folder / name, path.stat().st_mode) as temporary:
                shutil.copyfile(path, temporary)


_ANOTHER = (
    "dst: {} is not empty, and not what this conversion makes: the source is newer, a setting "
    "differs, or files are missing; overwrite=True (--overwrite) replaces it"
)
_UNFINISHED = (
    "dst: {} is not empty, and beside it lies unfinished work: resume=True and overwrite=True "
    "(--resume --overwrite) complete it and put it in its place, overwrite=True alone begins anew"
)


def _write_json(path: Path, content: dict[str, Any], mode: int) -> None:
    _write(path, json.dumps(content, indent=2) + "\n", mode)


def _write(path: Path, text: str, mode: int) -> None:
    with replacing(path, mode) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
