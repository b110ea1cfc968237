"""The exceptions and warnings that binq raises beyond ValueError and TypeError."""


class NonFiniteError(ValueError):
    """Weights hold inf or NaN. The message names the tensor, how many, and the first index."""


class FormatError(ValueError):
    """A file is corrupt, truncated or hostile. The message names file, tensor and reason."""


class UnsupportedFormatError(NotImplementedError, ValueError):
    """A file or checkpoint is well formed, in a format that binq does not read."""


class ScaleRangeWarning(UserWarning):
    """A scale does not fit float16, so the scales of that tensor are kept in float32."""


class SizeWarning(UserWarning):
    """Packed weights take more memory than float16 ones would: padding outweighs the weights."""


class UnknownModelWarning(UserWarning):
    """No family of models covers a checkpoint: its linear layers are told by shape and name."""
