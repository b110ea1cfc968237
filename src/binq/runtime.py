"""What compiled code runs with: threads and instruction set."""

from typing import Any

from binq import _core
from binq._native.isas import ISAS
from binq._version import __version__
from binq.array.checks import check_int


def get_num_threads() -> int:
    """Returns how many threads a large product or quantization uses.

    At first ``BINQ_NUM_THREADS``, or as many as there are cores for this process.

    >>> import binq
    >>> binq.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def set_num_threads(threads: int) -> None:
    """Sets how many threads a large product or quantization uses: 1 to 256, for the process.

    Results do not depend on it. Raises TypeError unless an integer, ValueError out of range.

    >>> import binq
    >>> before = binq.get_num_threads()
    >>> binq.set_num_threads(1)
    >>> binq.get_num_threads()
    1
    >>> binq.set_num_threads(before)
    """
    _core.set_num_threads(check_int("threads", threads, 1, _core.MAX_THREADS))


def cpu_info() -> dict[str, Any]:
    """Returns which kernels run here and why, for reports of problems and of speed.

    - isa: the kernels in use: ``"avx512"``, ``"avxvnni"``, ``"avx2"``, ``"i8mm"``,
      ``"dotprod"``, ``"neon"`` or ``"portable"``
    - available: the names that the environment variable ``BINQ_ISA`` takes here
    - features: what the processor and the operating system support
    - threads: see :func:`get_num_threads`
    - version: binq's version
    - warning: None, or why products are slower than this processor allows

    >>> import binq
    >>> info = binq.cpu_info()
    >>> info["isa"] in info["available"]
    True
    """
    return {
        "isa": _core.isa(),
        "available": _core.available_isas(),
        "features": _core.cpu_features(),
        "threads": _core.get_num_threads(),
        "version": __version__,
        "warning": _slow_because(_core.isa(), _core.available_isas(), _core.cpu_features()),
    }


def _slow_because(isa: str, available: tuple[str, ...], features: dict[str, bool]) -> str | None:
    """Returns why the kernels in use are not the best for this processor, or None if they are."""
    for best in (row for row in ISAS if not row.part):
        if isa == best.name:
            return None
        if best.name in available:
            return f"the {isa} kernels are in use though {best.name} is available: is BINQ_ISA set?"
        if all(features.get(feature) for feature in best.features):
            return (
                f"this processor has {best.name} but binq was built without its {best.name} "
                f"kernels: reinstall binq with a C compiler that knows {best.name}"
            )
    return None
