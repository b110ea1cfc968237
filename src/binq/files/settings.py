"""Where a folder says how its weights are stored, if not in the place for it.

That place is ``quantization_config`` of config.json. Older and other writers use another key, the
configuration of the language model inside (``text_config``), or a file beside config.json.
"""

from collections.abc import Callable, Mapping
from typing import Any

from binq.errors import FormatError

KEYS = ("quantization_config", "compression_config", "quantization")
# Files of settings, and the method that their writer means where they name none.
SIDE_FILES = {
    "quantize_config.json": "gptq",  # AutoGPTQ
    "quant_config.json": "awq",  # AutoAWQ
    "hf_quant_config.json": "modelopt",
}


def with_settings(
    config: dict[str, Any], read: Callable[[str], dict[str, Any] | None], path: object
) -> dict[str, Any]:
    """Returns a configuration whose settings of quantization are at its top.

    - read: returns the object of a JSON file of the folder, None where there is no such file

    Raises FormatError where the language model's settings differ from those at the top.
    """
    config = dict(config)
    text = config.get("text_config")
    if isinstance(text, Mapping) and any(text.get(key) for key in KEYS):
        inner = {key: text[key] for key in KEYS if text.get(key)}
        config["text_config"] = {key: value for key, value in text.items() if key not in KEYS}
        for key, value in inner.items():
            if config.get(key) not in (None, value):
                raise FormatError(f"{path}: {key} and {key} of text_config differ in config.json")
            config[key] = value
    if any(config.get(key) for key in KEYS):
        return config
    for name, method in SIDE_FILES.items():
        settings = read(name)
        if settings is None:
            continue
        if name == "hf_quant_config.json":
            settings = settings.get("quantization") or {}
            if not isinstance(settings, Mapping):
                raise FormatError(f"{path}: quantization of {name} is not an object")
        config["quantization_config"] = {"quant_method": method, **settings}
        return config
    return config
