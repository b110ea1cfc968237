"""The old name of :mod:`binq.convert.verify`, kept for one version."""

from binq.convert.inspect import inspect
from binq.convert.verify import verify

__all__ = ["inspect", "verify"]
