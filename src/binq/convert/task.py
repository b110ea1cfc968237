"""One shard as a task, in this process, in another, or on another machine.

A task may run any number of times, also after the conversion that it belongs to was given up: it
gives the same bytes each time, and touches only the folder of its own conversion.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from binq.convert.item import Item
from binq.convert.shard import Progress, write_shard
from binq.files.checkpoint import Checkpoint
from binq.files.replacing import replacing

MANIFEST = "binq-conversion.json"


def result_path(shard: Path) -> Path:
    """Returns where the result of a shard lies; it marks the shard as done."""
    return shard.with_suffix(".report.json")


def read_result(shard: Path, fingerprint: str) -> dict[str, Any] | None:
    """Returns the result of a shard that this conversion finished, or None.

    A shard of another conversion, or of another size than was written, is none.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        result: dict[str, Any] = json.loads(result_path(shard).read_text())
        if result["fingerprint"] == fingerprint and result["size"] == shard.stat().st_size:
            return result
    return None


def write_one(
    source: Checkpoint, items: Sequence[Item], shard: Path, fingerprint: str, advance: Progress
) -> None:
    """Writes one shard and, after it, its result."""
    result = write_shard(source, items, shard, advance)
    result |= {"fingerprint": fingerprint, "size": shard.stat().st_size}
    with replacing(result_path(shard), source.mode) as temporary:
        # JSON has no infinity: Python's own spelling is read back by Python only, which suffices.
        temporary.write_text(json.dumps(result))


def run_shard(src: str, items: Sequence[Item], shard: Path, fingerprint: str) -> str:
    """Does one shard wherever an executor runs it; returns its file name.

    Raises FileNotFoundError where its conversion is no longer there: another one has its folder.
    """
    manifest = shard.with_name(MANIFEST)
    if read_manifest(manifest) != fingerprint:
        raise FileNotFoundError(f"{manifest}: the conversion that this task belongs to is gone")
    if read_result(shard, fingerprint) is None:
        with Checkpoint(src) as source:
            write_one(source, items, shard, fingerprint, lambda _: None)
    return shard.name


def read_manifest(path: Path) -> str | None:
    """Returns the fingerprint of the conversion that works in a folder; None for no manifest."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_text())["fingerprint"])
    return None
