"""What compiled code runs with: threads and instruction set."""

from typing import Any

from binq import _core
from binq._checks import check_int
from binq._version import __version__


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
    _core.set_num_threads(check_int("threads", threads, 1, 256))


def cpu_info() -> dict[str, Any]:
    """Returns which kernels run here and why, for reports of problems and of speed.

    - isa: the kernels in use: ``"portable"``, ``"avx2"`` or ``"neon"``
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
    isa, available, features = _core.isa(), _core.available_isas(), _core.cpu_features()
    warning = None
    for fast in ("avx2", "neon"):
        if features.get(fast) and fast not in available:
            warning = (
                f"this processor has {fast} but binq was built without its {fast} kernels: "
                f"reinstall binq with a C compiler that knows {fast}"
            )
        elif fast in available and isa == "portable":
            warning = f"the portable kernels are in use though {fast} is available (BINQ_ISA?)"
    return {
        "isa": isa,
        "available": available,
        "features": features,
        "threads": _core.get_num_threads(),
        "version": __version__,
        "warning": warning,
    }
