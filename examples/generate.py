"""Text from a packed model in numpy, no PyTorch: the steps of `binq generate`, to read and change.

    python examples/generate.py MODEL "Why is the sky blue?" [--ids 1,2,3] [--new N]

MODEL is a Qwen 2 or 3, a Llama or Mistral, or a Bonsai: what `binq quantize` wrote, a GGUF file, or
a folder of MLX or of plain safetensors. Tokenizer and chat template: `pip install 'binq[run]'`;
`--ids` takes token ids instead and prints ids. The decoder itself is src/binq/run/decoder.py.
"""

import argparse
import sys

from binq.run import Decoder, Text, generate
from binq.run.text import stop_tokens


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("prompt", nargs="?", default="")
    parser.add_argument("--ids", help="token ids instead of a prompt, separated by commas")
    parser.add_argument("--new", type=int, default=256, help="tokens to make at most")
    given = parser.parse_intermixed_args(words)

    decoder = Decoder(given.model, activations="int8")
    stop = stop_tokens(decoder.model)
    if given.ids:
        prompt = [int(number) for number in given.ids.split(",")]
        print(*generate(decoder, prompt, given.new, stop=stop))
        return 0
    text = Text(decoder.model)
    tokens = generate(
        decoder, text.encode(given.prompt), given.new, stop=stop, temperature=0.7, top_p=0.9
    )
    for piece in text.stream(tokens):
        print(piece, end="", flush=True)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
