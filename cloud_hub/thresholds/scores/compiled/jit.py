"""Machine code by numba, where that is installed (extra `fast`): made at the first use and kept beside its file.

numba looks whether that file has changed, not at the functions and constants that it takes from others: code of
before would go on, perhaps on rows of another length. So an entry is a closure over the `mark` of all it is made of,
which is a part of the key under which numba keeps it; and only entries are kept, not their parts.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

try:
    _NUMBA: Any = importlib.import_module("numba")
except ImportError:
    _NUMBA = None

AVAILABLE = _NUMBA is not None


def part(function: Callable[..., Any]) -> Any:
    """A function that entries call, or just the function where there is no numba."""
    return _NUMBA.njit(error_model="numpy")(function) if AVAILABLE else function


def entry(function: Callable[..., Any]) -> Any:
    """A function that Python calls, kept from one process to the next where there is a folder for it."""
    if not AVAILABLE:
        return function
    try:
        return _NUMBA.njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder to keep the machine code in
        return part(function)


def mark(*functions: Any) -> int:
    """A number that changes with the code of the functions, of those they call, and with the constants these use."""
    seen: dict[str, bytes] = {}
    for function in functions:
        _collect(function, seen)
    return zlib.crc32(b"".join(name.encode() + seen[name] for name in sorted(seen)))


def _collect(function: Any, seen: dict[str, bytes]) -> None:
    function = getattr(function, "py_func", function)
    code, name = function.__code__, f"{function.__module__}.{function.__qualname__}"
    if name in seen:
        return
    seen[name] = code.co_code + repr((code.co_consts, code.co_names)).encode()
    for used in code.co_names:
        value = function.__globals__.get(used)
        if isinstance(value, FunctionType) or hasattr(value, "py_func"):
            _collect(value, seen)
        elif isinstance(value, (int, float, tuple, np.generic, np.ndarray)):
            seen[name] += str(np.asarray(value).dtype).encode() + np.asarray(value).tobytes()
