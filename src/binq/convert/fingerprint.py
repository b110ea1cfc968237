"""Tells one conversion from another: by its settings, and by its source's files and weights."""

from hashlib import sha256

from binq._version import __version__
from binq.convert.item import Settings
from binq.files.checkpoint import Checkpoint

# Weights that were trained further differ everywhere; of each tensor a few hundred bytes tell that.
_MOST_TENSORS = 4096
_SAMPLE_BYTES = 512


def conversion_fingerprint(source: Checkpoint, settings: Settings) -> str:
    """Returns a hash of the settings, the source's configuration and weight map, and its files.

    Of each file count name, size and time.
    """
    files = []
    for name, status in source.file_status().items():
        files.append((name, status.st_size, status.st_mtime_ns))
    # The weight map decides what there is, in which order and in which shard.
    places = list(source.places.items())
    text = repr((settings, files, places, sorted(source.config.items(), key=str), __version__))
    return sha256(text.encode()).hexdigest()


def source_sample(source: Checkpoint) -> str:
    """Returns a hash of all names, types and shapes, and of some bytes from each tensor's middle.

    It is the same wherever and whenever the same files lie, and cheap: at most 4096 tensors, evenly
    chosen, are sampled.
    """
    digest = sha256()
    step = -(-len(source.names) // _MOST_TENSORS)
    for number, name in enumerate(source.names):
        info = source.info(name)
        digest.update(repr((name, info.dtype, info.shape, info.file)).encode())
        if number % step == 0:
            start = max(0, (info.nbytes - _SAMPLE_BYTES) // 2)
            stop = min(info.nbytes, start + _SAMPLE_BYTES)
            digest.update(source.read_bytes(name, start, stop).data)
    return digest.hexdigest()
