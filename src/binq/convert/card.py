"""README.md of a packed folder: what it holds, what was lost, the lines that load it.

Hugging Face's model card: Markdown behind a front matter of YAML, whose keys are those of
https://huggingface.co/docs/hub/model-cards.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from binq._version import __version__
from binq.convert.quality import Quality
from binq.convert.report import Report
from binq.convert.tables import readable, shown
from binq.convert.tensor_report import TensorReport
from binq.files.checkpoint import Checkpoint

README = "README.md"
# Under this name the source's own README lies beside ours.
SOURCE_README = "README.source.md"
MARK = "<!-- written by binq quantize -->"
_MOST = 1 << 20  # bytes of a README that are looked at
_KEY = re.compile(r"[A-Za-z_][\w-]*:")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)")
# What our own front matter says, and no other.
_OURS = ("base_model:", "base_model_relation:", "library_name:")
_ROLES = {"linear": "linear layers", "expert": "experts", "embedding": "embeddings",
          "head": "output head"}  # fmt: skip


def copied_as(others: Sequence[Path]) -> dict[str, Path]:
    """Returns the files that are copied by the names that they get.

    The source's README makes room for ours. Where it has one of that name too, it stays what it
    was, and there is no card.
    """
    names = {path.name for path in others}
    moves = SOURCE_README not in names
    return {SOURCE_README if p.name == README and moves else p.name: p for p in others}


def card(source: Checkpoint, config: Mapping[str, Any], report: Report, readme: Path | None) -> str:
    """Returns the text of README.md for a packed folder; the same for the same conversion.

    - config: the contents of its config.json
    - readme: the source's own, None where it has none
    """
    base = _base_model(source)
    name = base or source.path.resolve().name.removesuffix(".gguf")
    lines = [*_front_matter(source, base, readme), MARK, f"# {_plain(name)}, packed by binq", ""]
    settings = config["quantization_config"]
    lines += [
        f"The weights of {_link(base) if base else f'`{_plain(name)}`'} in few bits: "
        f"{readable(report.bytes_before)} became {readable(report.bytes_after)}, "
        f"{report.bits_per_weight:.3f} bits a weight in all. Packed by binq {__version__} as "
        f"{settings['format']}, method {settings['method']}; all settings stand in "
        "`quantization_config` of config.json, and each tensor's loss in binq-report.json.",
        "",
        "## What became of the weights",
        "",
        "| | tensors | weights | form | bits a weight | size | SQNR, dB |",
        "|---|---|---|---|---|---|---|",
        *_rows(report.tensors),
        "",
        *(line.strip() for line in report.quality.lines()),
        "",
        "## Loading it",
        "",
        *_loading(config),
    ]
    if report.warnings:
        lines += ["## What to look at", "", *(f"- {_plain(text)}" for text in report.warnings), ""]
    if readme is not None:
        lines += [f"What the makers of the model say of it is in [{SOURCE_README}]"
                  f"({SOURCE_README}).", ""]  # fmt: skip
    return "\n".join(lines)


def is_card(path: Path) -> bool:
    """Returns whether a file is a README that a conversion wrote."""
    return path.name == README and MARK in _text(path)


def _front_matter(source: Checkpoint, base: str, readme: Path | None) -> Iterator[str]:
    """Yields the lines of YAML: those of the source's card, but for what is said anew."""
    yield "---"
    if base:
        yield f"base_model: {base}"
        yield "base_model_relation: quantized"
    yield "library_name: transformers"
    said = [] if readme is None else list(_said(_text(readme).splitlines()))
    yield from said
    if not any(line.startswith("license:") for line in said) and source.is_gguf:
        license = source.config.get("general.license")
        if isinstance(license, str) and re.fullmatch(r"[\w.-]+", license):
            yield f"license: {license}"
    if not any(line.startswith("tags:") for line in said):
        yield "tags:"
        yield "- binq"
    yield "---"


def _said(lines: Sequence[str]) -> Iterator[str]:
    """Yields what the front matter of the source's README says that still holds."""
    if not lines or lines[0].rstrip() != "---":
        return
    ours = True
    for line in lines[1:]:
        if line.rstrip() == "---":
            return
        if _KEY.match(line):
            ours = line.startswith(_OURS)
        if not ours:
            yield line.rstrip()
            if line.rstrip() == "tags:":
                yield "- binq"


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MOST).decode("utf-8", "replace")


def _base_model(source: Checkpoint) -> str:
    """Returns the name that the source has on Hugging Face's hub, "" where it does not tell."""
    for part in source.path.resolve().parts:
        cached = _CACHED.fullmatch(part)
        if cached:
            return f"{cached[1]}/{cached[2]}"
    name = source.config.get("_name_or_path")
    if isinstance(name, str) and _HUB.fullmatch(name) and not Path(name).exists():
        return name
    url = source.config.get("general.repo_url") if source.is_gguf else None
    prefix = "https://huggingface.co/"
    if isinstance(url, str) and _HUB.fullmatch(url.removeprefix(prefix)):
        return url.removeprefix(prefix)
    return ""


def _link(base: str) -> str:
    return f"[{base}](https://huggingface.co/{base})"


def _plain(text: str) -> str:
    """Returns a stranger's text without what Markdown or a terminal would act on."""
    return re.sub(r"[<>\[\]|`]", " ", shown(text))


def _rows(tensors: Sequence[TensorReport]) -> Iterator[str]:
    """Yields a row for each role and form of weights, and one for all that was kept."""
    groups: dict[tuple[str, str], list[TensorReport]] = {}
    for tensor in tensors:
        role = "kept as it was" if tensor.kept else _ROLES.get(tensor.role, "other matrices")
        form = "" if tensor.kept else tensor.format.removesuffix(" exact")
        groups.setdefault((role, form), []).append(tensor)
    for (role, form), group in sorted(groups.items(), key=lambda item: item[0][1] == ""):
        size = sum(prod(t.shape) for t in group)
        nbytes = sum(t.bytes_after for t in group)
        bits = f"{8 * nbytes / size:.3f}" if size else ""
        form = form or ", ".join(sorted({t.format for t in group if t.format != "tied"}))
        cells = (role, str(len(group)), f"{size:,}", form, bits, readable(nbytes), _loss(group))
        yield f"| {' | '.join(cells)} |"


def _loss(group: Sequence[TensorReport]) -> str:
    total = Quality([replace(t) for t in group]).total
    if total is None:
        return ""
    return "exact" if total == float("inf") else f"{total:.2f}"


def _loading(config: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        "```python",
        "import binq",
        "",
        'tensors = binq.load("FOLDER")  # this folder; name -> array, mapped',
        "```",
        "",
    )
    names = config.get("architectures")
    if not isinstance(names, list) or not names:
        return
    yield "In transformers, once `import binq.torch` (`pip install 'binq[torch]'`) is done:"
    yield from ("", "```python", "import binq.torch")
    if str(names[0]).endswith("ForCausalLM"):
        yield from (
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("FOLDER", dtype="float32")',
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        )
    else:
        yield from ("", 'model = binq.torch.load("FOLDER")')
    yield from ("```", "")
