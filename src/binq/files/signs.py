"""What a file is that was taken for weights, told by its first bytes, and what a folder holds."""

import re
from pathlib import Path

SIGN_BYTES = 512  # as many of a file's first bytes as :func:`what_it_is` looks at
_MOST_NAMES = 5
_SIGNS = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself: run git lfs pull"),
    (b"GGUF", "a GGUF file: binq.load and binq quantize read it"),
    (b"\x93NUMPY", "a numpy array (.npy): np.load reads it"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (.h5), as Keras writes them: h5py reads it"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
    (b"\xfd7zXZ\0", "compressed with xz: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"ggml", "an old GGML file: llama.cpp converts it to GGUF"),
    (b"ggjt", "an old GGML file: llama.cpp converts it to GGUF"),
)
_TORCH = "saved by torch (.bin, .pt, .pth): load it there and save it with safetensors.torch"
_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml|!--)", re.IGNORECASE)
_FOLDER_SIGNS = (
    (r"adapter_model\.(safetensors|bin)", "an adapter (LoRA), not a whole model: merge it first"),
    (r".*-of-\d+\.(safetensors)", "shards without their model.safetensors.index.json"),
    (r".*\.safetensors", "a safetensors file of another name: name the file"),
    (r".*\.(bin|pt|pth|ckpt)", _TORCH),
    (r".*\.(npz|npy)", "numpy arrays: np.load reads them"),
    (r".*\.h5", "Keras weights: save them as safetensors"),
    (r".*\.(msgpack)", "Flax weights: save them as safetensors"),
    (r".*\.onnx(_data)?", "an ONNX model, which binq does not read"),
    (r".*\.(zip|gz|tar|tgz|xz|zst)", "an archive: unpack it first"),
)


def what_it_is(start: bytes) -> str:
    """Returns what a file that begins so is, if not a safetensors file; "" where unknown.

    >>> what_it_is(b"<!DOCTYPE html><html>")
    'a web page (HTML or XML), such as an error of the server: download the file again'
    """
    for sign, what in _SIGNS:
        if start.startswith(sign):
            return what
    if start.startswith(b"PK\x03\x04"):
        if b".npy" in start[:128]:
            return "numpy arrays in a zip (.npz): np.load reads it"
        return f"a zip archive, perhaps {_TORCH}"
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return f"a Python pickle, perhaps {_TORCH}"
    if _PAGE.match(start):
        return "a web page (HTML or XML), such as an error of the server: download the file again"
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    text = start.decode("latin-1").strip()
    if text.startswith(("{", "[")):
        return "JSON text, not weights"
    if (
        all(letter.isprintable() or letter in "\t\r\n" for letter in text)
        and start.isascii()
        and text
    ):
        return f"text, not weights: it begins with {text[:40]!r}"
    return ""


def what_folder_holds(folder: Path) -> str:
    """Returns what is in a folder that has no checkpoint: files that look like weights, by kind."""
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return "the folder is empty"
    found: dict[str, list[str]] = {}
    for name in names:
        what = next((text for sign, text in _FOLDER_SIGNS if re.fullmatch(sign, name)), None)
        if what is not None:
            found.setdefault(what, []).append(name)
    if found:
        return "; ".join(f"{_listed(group)}: {what}" for what, group in found.items())
    return f"it holds {_listed(names)}"


def _listed(names: list[str]) -> str:
    shown = ", ".join(name if name.isprintable() else repr(name) for name in names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
