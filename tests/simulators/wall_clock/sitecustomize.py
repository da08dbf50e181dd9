"""A wall clock that jumps: on a Python program's path, it adds the seconds in the file `WALL_CLOCK_AHEAD` to UTC.

The monotonic clock stays as it is, as when an operator or NTP sets a machine's clock. What happens before the file
has a number in it happens at the right time.
"""

import os
import time

_time, _time_ns, _file = time.time, time.time_ns, os.environ.get("WALL_CLOCK_AHEAD", "")


def _ahead_s() -> int:
    try:
        with open(_file) as file:  # noqa: PTH123 - nothing else may be imported this early
            return int(file.read() or 0)
    except (OSError, ValueError):
        return 0


if _file:
    time.time = lambda: _time() + _ahead_s()
    time.time_ns = lambda: _time_ns() + _ahead_s() * 1_000_000_000
