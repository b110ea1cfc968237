"""What a folder of a GGUF file's model holds beside its weights."""

from dataclasses import dataclass
from typing import Any

from binq.files.checkpoint import Checkpoint
from binq.models import gguf
from binq.models.gguf_config import taken_over
from binq.models.gguf_tokenizer import tokenizer_files
from binq.models.table import by_name


@dataclass(frozen=True)
class GgufFolder:
    """The files of a folder that the metadata of a GGUF file tell.

    - config: the contents of config.json; {} where the model is not known well enough
    - files: name -> text of tokenizer, chat template, and settings of generation
    - notes: what there is none of, and why
    """

    config: dict[str, Any]
    files: dict[str, str]
    notes: tuple[str, ...]


def folder_of(source: Checkpoint, family: str | None = None) -> GgufFolder:
    """Returns what the metadata of a GGUF file tell; nothing for what is none.

    - family: the family that the user names: of another than that of GGUF, names and values of
      tensors are not Hugging Face's, and there is no configuration
    """
    if not source.is_gguf or (family is not None and by_name(family) is not gguf.FAMILY):
        return GgufFolder({}, {}, ())
    return source.once("folder of GGUF", lambda: _folder_of(source))


def _folder_of(source: Checkpoint) -> GgufFolder:
    config, unknown = taken_over(source)
    files, missing = tokenizer_files(source)
    notes = []
    if unknown:
        notes.append(f"config.json describes no model: {unknown}")
    if missing:
        notes.append(f"there is no tokenizer.json: {missing}")
    return GgufFolder(config, files, tuple(notes))
