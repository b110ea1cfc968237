"""Search 200,000 documents whose embeddings take 1 or 2 bits a dimension, with float queries.

    python examples/search.py [--documents N] [--dimensions D] [--queries Q] [--threads T]

The documents are quantized, the queries stay floats: that finds more than to compare the signs of
both (Hamming distance), and takes less time. Prints for each way what it stores, how long all
scores take, and which part of the ten best documents of an exact search is among its first ten
and its first hundred: from a hundred, a second look at the floats picks the ten.

The embeddings are random: topics, documents about a topic, queries about a document. For your own,
replace `embeddings`.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import binq

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]
Scores = Callable[[Floats], Floats]
FORMATS: tuple[Literal["binary", "ternary"], ...] = ("binary", "ternary")


def embeddings(documents: int, dimensions: int, queries: int) -> tuple[Floats, Floats]:
    """Returns documents and queries, unit vectors that all lean to one side as real ones do."""
    rng = np.random.default_rng(0)
    lean = rng.standard_normal(dimensions, dtype=np.float32)
    topics = rng.standard_normal((max(1, documents // 200), dimensions), dtype=np.float32)
    found = rng.standard_normal((documents, dimensions), dtype=np.float32)
    found += topics[rng.integers(0, len(topics), documents)] + lean
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    about = found[rng.integers(0, documents, queries)]
    noise = rng.standard_normal((queries, dimensions), dtype=np.float32)
    return found, about + noise / np.float32(dimensions**0.5)


def best(scores: Floats, count: int) -> Ids:
    """Returns for each query the ids of the documents with the highest scores, best first."""
    ids = np.argpartition(scores, -count, axis=1)[:, -count:]
    order = np.argsort(-np.take_along_axis(scores, ids, axis=1), axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1)


def recall(found: Ids, wanted: Ids) -> float:
    """Returns the part of the wanted ids that were found."""
    return float(np.mean([np.isin(w, f).mean() for w, f in zip(wanted, found, strict=True)]))


def sign_bits(vectors: Floats) -> NDArray[np.uint64]:
    """Returns a bit a dimension, 64 to a word."""
    short = -vectors.shape[1] % 64
    return np.packbits(np.pad(vectors > 0, ((0, 0), (0, short))), axis=1).view(np.uint64)


def hamming(documents: NDArray[np.uint64], queries: NDArray[np.uint64]) -> Floats:
    """Returns minus the number of bits that differ, for each query and document."""
    differ = [
        np.bitwise_count(documents ^ query).sum(axis=1, dtype=np.float32) for query in queries
    ]
    return -np.stack(differ)


def milliseconds(call: Callable[[], object]) -> float:
    """Returns the shortest of three runs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def compare(documents: Floats, queries: Floats) -> dict[str, tuple[float, float]]:
    """Prints a line for each way to search; returns the two recalls of each."""
    exact = best(queries @ documents.T, 10)
    # Levels lie around zero, so the mean is taken away. A query's product with the mean is the
    # same for every document: it changes no order.
    mean = documents.mean(axis=0)
    centred = documents - mean
    bits = sign_bits(centred)
    ways: list[tuple[str, int, Scores]] = [
        ("float32, exact", documents.nbytes, lambda x: x @ documents.T),
        ("signs, Hamming", bits.nbytes, lambda x: hamming(bits, sign_bits(x - mean))),
    ]
    for format in FORMATS:
        q = binq.quantize(centred, format, group_size=None)  # one scale a document
        ways.append((f"binq {format}", q.nbytes, partial(binq.linear, q=q, activations="int8")))
    many = f"{len(queries)} queries"
    print(f"{'':16}{'stored':>10}{'1 query':>10}{many:>14}{'in first 10':>14}{'in 100':>9}")
    recalls = {}
    for name, nbytes, scores in ways:
        found = scores(queries)
        ten, hundred = (recall(best(found, count), exact) for count in (10, 100))
        one, all_of_them = (milliseconds(partial(scores, x)) for x in (queries[:1], queries))
        print(
            f"{name:16}{nbytes / 1e6:7.1f} MB{one:7.1f} ms{all_of_them:11.1f} ms"
            f"{ten:14.3f}{hundred:9.3f}"
        )
        recalls[name] = ten, hundred
    return recalls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--threads", type=int, default=binq.get_num_threads())
    options = parser.parse_args()
    if options.documents < 100 or min(options.dimensions, options.queries) < 1:
        parser.error("at least 100 documents, 1 dimension and 1 query are needed")
    binq.set_num_threads(options.threads)
    print(f"{options.documents:,} documents of {options.dimensions} dimensions")
    print(f"{binq.cpu_info()['isa']} kernels, {binq.get_num_threads()} threads")
    compare(*embeddings(options.documents, options.dimensions, options.queries))


if __name__ == "__main__":
    main()
