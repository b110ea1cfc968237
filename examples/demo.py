"""The whole way on one page: a checkpoint, quantized three times, loaded and multiplied.

    python examples/demo.py [--src FOLDER] [--out FOLDER]

Without --src it writes a small checkpoint first. Run it again as often as you like.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import make_checkpoint

HERE = Path(__file__).parent
FORMATS = ("int4", "ternary", "binary")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--src", type=Path, help="a Hugging Face folder or GGUF file of your own")
    parser.add_argument("--out", type=Path, default=Path("demo"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    source = options.src
    if source is None:
        source = options.out / "qwen3-shaped"
        make_checkpoint.write(source)
        print(f"wrote {source}, a small checkpoint in the layout of Qwen 3\n")
    # A folder's name may have a dot, as Qwen3.5-9B has: only a file's is cut there.
    name = source.resolve().name if source.is_dir() else source.stem
    targets = {format: options.out / f"{name}-{format}" for format in FORMATS}
    for format, target in targets.items():
        command = [sys.executable, HERE / "quantize_checkpoint.py", source, target, "--overwrite"]
        code = subprocess.call([*map(str, command), "--format", format])
        if code:
            return code
    print("\n".join(verdict(source, targets)))
    return 0


def verdict(source: Path, targets: dict[str, Path]) -> Iterator[str]:
    """Yields what came of each format, from the reports in the folders, and what to do next."""
    yield "What came of it:"
    for format, target in targets.items():
        report = json.loads((target / "binq-report.json").read_text(encoding="utf-8"))
        times = report["bytes_before"] / report["bytes_after"]
        sqnr = report["sqnr"]
        quality = "exact" if sqnr["worst"] is None else f"{sqnr['total_db']:.1f} dB"
        yield f"  {format:8} {times:4.1f} times smaller, {quality}: {sqnr['rating']}"
    yield ""
    yield "Next: a model of your own"
    yield "  binq quantize MODEL_FOLDER packed --format int4 --dry-run"
    yield "and the weights in numpy"
    yield f"  tensors = binq.load({str(targets['int4'])!r})"
    yield "  y = x @ tensors[NAME].T"


if __name__ == "__main__":
    sys.exit(main())
