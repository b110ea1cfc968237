"""The whole way on one page: a checkpoint, quantized three times, loaded and multiplied.

    python examples/demo.py [--src FOLDER] [--out FOLDER]

Without --src it writes a small checkpoint first. Run it again as often as you like.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import make_checkpoint

HERE = Path(__file__).parent


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
    for format in ("int4", "ternary", "binary"):
        target = options.out / f"{name}-{format}"
        command = [sys.executable, HERE / "quantize_checkpoint.py", source, target, "--overwrite"]
        code = subprocess.call([*map(str, command), "--format", format])
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
