"""Who asks packed weights for floats: ``np.asarray(q)``, or something that happened to need them.

numpy calls ``__array__`` in the same way for ``np.asarray(q)``, where a user asks for a float
array, and for ``np.array([q, q])``, ``np.ascontiguousarray(q)``, ``w[:] = q`` or a function of
scipy, which would make one eight to thirty times the size of the weights without a word. The
calling frame tells them apart: its code is at the call, and names the function and its argument.
"""

import dis
import sys
from types import FrameType
from typing import Any

import numpy as np

# Libraries whose own code turns array-likes into arrays; binq's must not do it either.
_LIBRARIES = ("binq", "numpy", "pandas", "scipy", "sklearn")
_ASKING = (np.asarray, np.asanyarray)
_BUILDS = ("BUILD_LIST", "BUILD_TUPLE", "LIST_EXTEND", "LIST_APPEND")
_UNKNOWN = object()


def who_asks(frame: FrameType | None) -> str | None:
    """Returns what asks for the floats of weights without being ``np.asarray(q)``, or None.

    None too where the frame does not tell.
    """
    if frame is None:
        return None
    library = frame.f_globals.get("__name__", "")
    if isinstance(library, str) and library.partition(".")[0] in _LIBRARIES:
        return f"{library}.{frame.f_code.co_name}"
    try:
        return _at_call(frame)
    except (AttributeError, IndexError, KeyError, ValueError):
        return None  # bytecode of a Python that was not there when this was written


def _at_call(frame: FrameType) -> str | None:
    code = [
        one
        for one in dis.get_instructions(frame.f_code)
        if one.offset <= frame.f_lasti and one.opname not in ("CACHE", "PRECALL", "EXTENDED_ARG")
    ]
    call = code.pop()
    if call.opname == "STORE_SUBSCR":
        return "an assignment"
    if call.opname not in ("CALL", "CALL_KW"):
        return None
    # Before it, what it takes: its keywords' names, then its arguments.
    if call.opname == "CALL_KW" or code[-1].opname == "KW_NAMES":
        code.pop()
    count = wanted = call.arg or 0
    first: list[dis.Instruction] = []
    while wanted > 0:
        if wanted == 1 and not first:
            first = code[-1:]  # where the first argument ends
        one = code.pop()
        wanted -= dis.stack_effect(one.opcode, one.arg, jump=False)
    while code and code[-1].opname in ("PUSH_NULL", "NOP"):
        code.pop()
    called = _value(code, frame)
    if called is _UNKNOWN or not callable(called):
        return None
    name = getattr(called, "__name__", type(called).__name__)
    if called is np.array:
        # np.array(q) says copy=True, and is let through before; this one is in a list.
        return "numpy.array of a list"
    if called not in _ASKING:
        return str(name)
    if first and first[0].opname in _BUILDS:
        return f"numpy.{name} of a list"
    given = _value(first, frame)
    if count and isinstance(given, list | tuple):
        return f"numpy.{name} of a {type(given).__name__}"
    return None


def _value(code: list[dis.Instruction], frame: FrameType) -> Any:
    """Returns what the last instructions put on the stack, where they load a name or attributes."""
    if not code:
        return _UNKNOWN
    last = code[-1]
    if last.opname in ("LOAD_ATTR", "LOAD_METHOD"):
        owner = _value(code[:-1], frame)
        return _UNKNOWN if owner is _UNKNOWN else getattr(owner, last.argval, _UNKNOWN)
    if not last.opname.startswith(("LOAD_FAST", "LOAD_NAME", "LOAD_GLOBAL", "LOAD_DEREF")):
        return _UNKNOWN
    for names in (frame.f_locals, frame.f_globals, vars(sys.modules["builtins"])):
        if last.argval in names:
            return names[last.argval]
    return _UNKNOWN
