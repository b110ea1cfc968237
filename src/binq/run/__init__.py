"""Text from models, in numpy: no PyTorch. ``binq generate`` on the command line."""

from binq.run.decoder import Decoder
from binq.run.sampling import generate
from binq.run.text import Text

__all__ = ["Decoder", "Text", "generate"]
