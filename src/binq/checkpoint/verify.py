"""The old name of :mod:`binq.convert.verify`, kept for one version."""

from binq.convert.verify import inspect, verify

__all__ = ["inspect", "verify"]
