"""transformers' from_pretrained and save_pretrained for folders that ``binq quantize`` wrote.

transformers asks a registered quantizer, before it looks for files, what the index is called, and
before it reads weights, to ready the modules. Packed weights are attached mapped from the file and
kept out of state dicts until transformers has loaded the rest.
"""

import functools
from typing import Any

import torch
import transformers
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils import logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from binq._version import __version__
from binq.files.checkpoint import INDEX
from binq.torch.attach import Attachment
from binq.torch.modules import PackedModule, set_activations
from binq.torch.saving import save_packed

_logger = logging.get_logger(__name__)


@register_quantization_config("binq")
class BinqConfig(QuantizationConfigMixin):
    """What ``quantization_config`` of a packed folder's config.json says, as it stands there."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)
        self.quant_method = "binq"


@register_quantizer("binq")
class BinqQuantizer(HfQuantizer):
    """Loads and saves models with packed weights."""

    requires_calibration = True  # transformers' word for: loads what is packed, packs nothing

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        """Raises ValueError for devices other than the CPU."""
        devices = device_map.values() if isinstance(device_map, dict) else [device_map]
        for device in devices:
            if str(device) not in ("None", "auto", "cpu"):
                raise ValueError(f"device_map must be 'cpu' for packed weights, got {device_map!r}")

    def update_device_map(self, device_map: Any) -> Any:
        return None if device_map is None else {"": "cpu"}

    def update_attn_implementation(self, config: Any) -> Any:
        # The one call before the files are looked for. The index has a name of binq's own, so that
        # without this package no weights are found instead of random ones being made.
        if getattr(config, "transformers_weights", None) is None:
            config.transformers_weights = INDEX
        return config

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Any = None, **kwargs: Any
    ) -> None:
        if checkpoint_files is None:
            raise ValueError("state_dict= is not for packed models: use load_state_dict")
        said = self.quantization_config.to_dict()
        self._attachment = Attachment(model, checkpoint_files, said)
        if self._attachment.unused:
            names = self._attachment.unused
            _logger.warning(
                f"{len(names)} packed tensors have no place in {type(model).__name__}: "
                f"{', '.join(names[:5])}"
            )

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        self._attachment.finish()
        del self._attachment
        return model

    def is_serializable(self, **kwargs: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        """Returns True: gradients reach adapters beside and below packed weights."""
        return True

    @property
    def is_compileable(self) -> bool:
        return True

    def dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        """Returns the model with float weights: of that dtype, or of what each module has now."""
        model = dequantize_(model, dtype)
        self.remove_quantization_config(model)
        return model


def dequantize_(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Returns the model with float weights in place of all packed ones."""
    parameters: dict[int, tuple[str, nn.Parameter]] = {}
    tied = getattr(model, "all_tied_weights_keys", {})
    for name, module in list(model.named_modules()):
        if not isinstance(module, PackedModule):
            continue
        floats: Any = module.dequantize()
        if dtype is not None:
            floats = floats.to(dtype)
        for key, cell in module._cells.items():
            if cell.handle in parameters and key == "weight":
                source, floats.weight = parameters[cell.handle]
                tied[f"{name}.weight"] = source
            elif key == "weight":
                parameters[cell.handle] = f"{name}.weight", floats.weight
        model.set_submodule(name, floats)
    return model


def mark(model: Any, format: str, group_size: int | None) -> None:
    """Makes a model of transformers that was packed in memory one that save_pretrained can save."""
    if not isinstance(model, transformers.PreTrainedModel) or hasattr(model, "hf_quantizer"):
        return
    config = BinqConfig(version=1, binq_version=__version__, format=format, group_size=group_size)
    model.config.quantization_config = config
    model.hf_quantizer = BinqQuantizer(config)
    for module in model.modules():
        if isinstance(module, PackedModule) and module._is_tied:
            for name, other in model.named_modules():
                if other is module:
                    model.all_tied_weights_keys.pop(f"{name}.weight", None)


_save_pretrained = transformers.PreTrainedModel.save_pretrained
_load_weights = transformers.PreTrainedModel._load_pretrained_model


@functools.wraps(_save_pretrained)
def save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(getattr(self, "hf_quantizer", None), BinqQuantizer):
        return _save_pretrained(self, save_directory, *args, **kwargs)
    return save_packed(self, save_directory, *args, **kwargs)


@functools.wraps(_load_weights)
def load_weights(
    model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any, *args: Any, **kwargs: Any
) -> Any:
    quantizer = load_config.hf_quantizer
    if isinstance(quantizer, BinqQuantizer):
        # The kept tensors alone: transformers would map files whole, private, which Linux refuses
        # for those larger than memory, and match every part of a packed tensor to the model.
        state_dict, checkpoint_files = quantizer._attachment.files.state_dict(), None
    return _load_weights(model, state_dict, checkpoint_files, load_config, *args, **kwargs)


# transformers has no hook for either.
transformers.PreTrainedModel.save_pretrained = save_pretrained
transformers.PreTrainedModel._load_pretrained_model = staticmethod(load_weights)


def load(
    folder: Any,
    *,
    activations: str = "int16",
    dtype: Any = torch.float32,
    **arguments: Any,
) -> Any:
    """Returns the model of a packed folder, of the class that its ``architectures`` name.

    - folder: what ``binq quantize`` or save_pretrained wrote. Packed weights stay mapped: loading
      reads none of them, processes share their memory, and of a mixture only the experts that are
      chosen are ever read
    - activations: how exactly x enters products, as in :func:`binq.linear`
    - dtype: that of kept tensors and of all that is computed beside products; float32 is fastest
      on most processors. ``"auto"``: what the configuration says
    - arguments: others of from_pretrained

    Raises ValueError for a folder whose configuration names no class of transformers, and as
    from_pretrained does.
    """
    config = transformers.AutoConfig.from_pretrained(folder)
    names = getattr(config, "architectures", None) or []
    cls = getattr(transformers, names[0], None) if names else None
    if cls is None:
        raise ValueError(
            f"{folder}: architectures in config.json must name a class of transformers "
            f"{transformers.__version__}, got {names}"
        )
    model = cls.from_pretrained(folder, dtype=dtype, **arguments)
    return set_activations(model, activations)
