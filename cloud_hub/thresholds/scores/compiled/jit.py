"""Compiles functions with numba (extra `fast`), if installed, at first use, and caches the code next to the source.

numba invalidates its cache only when the file changes, not when imported functions and constants do; stale code could
then run on rows of another length. Therefore an entry is a closure over the `mark` of all its parts, which becomes part
of numba's cache key. Only entries are cached, not their parts.
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
    """Compile a function that entries call; without numba, return it unchanged."""
    return _NUMBA.njit(error_model="numpy")(function) if AVAILABLE else function


def entry(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls; cached across processes if there is a folder for the cache."""
    if not AVAILABLE:
        return function
    try:
        return _NUMBA.njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder for the cache
        return part(function)


def mark(*functions: Any) -> int:
    """A hash of the code of the functions, of the functions they call, and of the constants that these use."""
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
