"""Text to tokens and back, as a model's own files say: tokenizer, chat template, where to stop."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

# Tokens that tell how the next one is written: whether a space comes before it, for one.
_CONTEXT = 16


class Files(Protocol):
    """What :func:`binq.load` returns, as far as text is concerned."""

    @property
    def config(self) -> Mapping[str, Any]: ...

    def text(self, name: str) -> str | None: ...


class Text:
    """The tokenizer and chat template of a model that :func:`binq.load` opened.

    Raises ValueError where the model has no tokenizer, and where the libraries that read it are
    not installed.
    """

    def __init__(self, model: Files) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise ValueError("text needs tokenizers: pip install 'binq[run]'") from None
        described = model.text("tokenizer.json")
        if described is None:
            raise ValueError("the model has no tokenizer.json: put its own there, or give --ids")
        self._tokenizer = Tokenizer.from_str(described)
        self._settings = json.loads(model.text("tokenizer_config.json") or "{}")
        template = model.text("chat_template.jinja") or self._settings.get("chat_template")
        self._template = template if isinstance(template, str) else None

    def encode(self, prompt: str, *, chat: bool = True) -> list[int]:
        """Returns the tokens of a prompt, put as the model's chat template has it, if it has one.

        - chat: False: as it is
        """
        text = self.templated(prompt) if chat else prompt
        # A template has written its own special tokens.
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=text == prompt).ids
        return ids

    def templated(self, prompt: str) -> str:
        """Returns the prompt as the chat template puts it; as it is where there is none."""
        if self._template is None:
            return prompt
        try:
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError:
            raise ValueError("chat templates need jinja2: pip install 'binq[run]'") from None
        special = {
            name: value["content"] if isinstance(value, dict) else value
            for name, value in self._settings.items()
            if name.endswith("_token") and value
        }
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["strftime_now"] = time.strftime
        text: str = environment.from_string(self._template).render(
            messages=[{"role": "user", "content": prompt}], add_generation_prompt=True, **special
        )
        return text

    def stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yields the text of tokens in pieces, each as soon as its last character is whole."""
        made: list[int] = []  # since the last token but some that a character ended with
        given = ""
        text = ""
        for token in tokens:
            made.append(token)
            text = self._tokenizer.decode(made)
            if text.endswith("\ufffd"):  # half a character
                continue
            yield text[len(given) :]
            if len(made) > 2 * _CONTEXT:  # the time of a token does not grow with the answer
                del made[:-_CONTEXT]
                text = self._tokenizer.decode(made)
            given = text
        if len(text) > len(given):  # the answer ends in the middle of a character
            yield text[len(given) :]


def stop_tokens(model: Files) -> set[Any]:
    """Returns the tokens that end an answer."""
    settings = json.loads(model.text("generation_config.json") or "{}")
    said = settings.get("eos_token_id", model.config.get("eos_token_id"))
    return set(said) if isinstance(said, list) else {said}
