"""Times whole models, binq beside the others, and writes docs/benchmarks-running.md and its plots.

``make bench-run``, or ``python benchmarks/generation/run.py [--python PYTHON …]``: what this Python
does not have is looked for in the others that are named. All contestants of a group hold their
models at once and take turns, A B C A B C, so that a slow minute of the machine is everybody's.
``--name 'Zen 4'`` is what people call the processor; ``--report-only`` writes the document again;
``--add`` puts rounds to those of earlier runs, where it would put them in their place.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models import GGUF_TYPES, SHAPES, make
from report import keep, write
from rounds import together

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
Row = dict[str, Any]

FORMATS = ("binary", "ternary", "int4")
# One group a format, then those that store floats or formats of their own: (library, mode).
FLOATS = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("torch", "dynamic int8"),
    ("torchao", "torchao int8"),
    ("torchao", "torchao int4"),
    ("bitsandbytes", "nf4"),
)


class Process:
    """A contestant in a process of the first Python that has its library."""

    def __init__(self, pythons: list[str], library: str, *arguments: str) -> None:
        self.failure = "not installed"
        self.version = ""
        self.running: subprocess.Popen[str] | None = None
        for python in pythons:
            # A file: a full pipe that nobody reads would stop the contestant.
            self.complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115
            command = [python, str(HERE / "contestants.py"), library, *arguments]
            self.running = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.complaints,
                text=True,
            )
            answer = self._answer()
            if "version" in answer:
                self.version = answer["version"]
                return
            self.stop()
            if "missing" not in answer:  # It is there and does not work.
                self.failure = answer["failure"]
                return

    def _answer(self) -> Row:
        assert self.running is not None
        assert self.running.stdout is not None
        for line in self.running.stdout:
            if line.startswith("{"):
                found: Row = json.loads(line)
                return found
        self.complaints.seek(0)
        lines = self.complaints.read().strip().splitlines() or ["no answer"]
        return {"failure": lines[-1]}

    def time(self, prompt: int, new: int) -> Row:
        """Returns the seconds of the prompt and of each token after it, and the memory."""
        assert self.running is not None
        assert self.running.stdin is not None
        self.running.stdin.write(f"{prompt} {new}\n")
        self.running.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """Ends the process."""
        if self.running is not None:
            self.running.communicate()
            self.running = None
            self.complaints.close()


def timed(
    pythons: list[str], contestants: list[tuple[str, Row]], folder: Path, options: Any
) -> Iterator[Row]:
    """Yields what each contestant of a group took, all of them in turns."""
    processes = []
    for threads in options.threads:
        processes = [
            Process(pythons, row["library"], str(folder), mode, str(threads))
            for mode, row in contestants
        ]
        answers: list[list[Row]] = [[] for _ in processes]
        for number in range(options.rounds + 1):
            for process, found in zip(processes, answers, strict=True):
                if process.running is None:
                    continue
                answer = process.time(options.prompt, options.new)
                if "failure" in answer:
                    process.failure = answer["failure"]
                    process.stop()
                elif number:  # The first only warms up.
                    found.append(answer)
        for process, found, (_, row) in zip(processes, answers, contestants, strict=True):
            process.stop()
            yield {**row, "threads": threads, **_row(process, found, options.prompt)}


def _row(process: Process, answers: list[Row], prompt: int) -> Row:
    if not answers:
        return {"failure": process.failure}
    return {
        "version": process.version,
        **together([answer["seconds"] for answer in answers], prompt),
        "resident": max(answer["resident"] for answer in answers),
    }


def groups(shape: str, scratch: Path, chosen: list[str]) -> Iterator[tuple[Path, Any]]:
    """Yields a folder and the contestants that run what it holds."""
    for format in FORMATS:
        if format not in chosen:
            continue
        folder = make(shape, format, scratch / f"{shape} {format}")
        weights = (folder / "model-00001-of-00001.safetensors").stat().st_size
        gguf = write_gguf(folder)
        base = {"shape": shape, "format": format}
        yield (
            folder,
            [
                ("int8", base | _named("binq", f"{format} int8", weights)),
                ("int16", base | _named("binq", f"{format} int16", weights)),
                ("", base | _named("llama.cpp", GGUF_TYPES[format], gguf.stat().st_size)),
            ],
        )
    if "floats" in chosen:
        folder = make(shape, "binary", scratch / f"{shape} floats")  # for its config.json
        base = {"shape": shape, "format": "others"}
        yield folder, [(mode, base | _named(library, mode, 0)) for library, mode in FLOATS]


def _named(library: str, kind: str, nbytes: int) -> Row:
    name = kind if kind.startswith(library) else f"{library} {kind}"
    return {"library": library, "name": name, "file_bytes": nbytes}


def write_gguf(folder: Path) -> Path:
    """Returns the same weights as a file of llama.cpp, without a vocabulary."""
    from binq.export import export_checkpoint

    file = folder / "model.gguf"
    if not file.exists():
        export_checkpoint(folder, file, to="gguf")
    return file


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", default=[], help="another Python to look in")
    parser.add_argument("--name", help="what people call this processor")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--add", action="store_true", help="rounds to those that are there")
    parser.add_argument("--shape", action="append", choices=SHAPES, help="one of several")
    parser.add_argument("--group", action="append", choices=(*FORMATS, "floats"))
    parser.add_argument("--threads", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=16)
    parser.add_argument("--models", type=Path, help="keep the models in this folder")
    parser.add_argument("--results", type=Path, default=HERE / "machines")
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args(words)
    options.threads = options.threads or [1, 2]
    if not options.report_only:
        pythons = [sys.executable, *options.python]
        for shape in options.shape or [name for name in SHAPES if name != "tiny"]:
            with tempfile.TemporaryDirectory() as scratch:
                place = options.models or Path(scratch)
                for folder, contestants in groups(
                    shape, place, options.group or [*FORMATS, "floats"]
                ):
                    rows = list(timed(pythons, contestants, folder, options))
                    tokens = options.prompt, options.new
                    keep(rows, options.results, options.name, *tokens, add=options.add)
                    for row in rows:
                        print(*(f"{key}={row[key]}" for key in row if key != "library"), flush=True)
    write(options.results, options.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
