"""pysparkplug's side of `benchmarks.sparkplug_codec`. Runs in `.venv-interop`, which has no Tidegate.

    .venv-interop/bin/python benchmarks/sparkplug_codec_pysparkplug.py REPEATS SIZES   # prints rows as JSON

It has no properties, and reads no message without datatypes (its DATA has none), so the messages are its DBIRTH
with the content of our DATA messages by name and with datatypes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pysparkplug  # type: ignore[import-not-found, unused-ignore]

NOW_MS = 1_795_236_000_000


def message(count: int) -> Any:
    """A message of `count` float metrics."""
    metrics = tuple(
        pysparkplug.Metric(
            timestamp=NOW_MS,
            name=f"Line 1/Motor {n}/temperature",
            datatype=pysparkplug.DataType.FLOAT,
            value=20.0 + n / 4,
        )
        for n in range(count)
    )
    return pysparkplug.DBirth(timestamp=NOW_MS, seq=1, metrics=metrics)


def best(work: Callable[[], object], repeats: int) -> float:
    """Processor seconds of one call, as `benchmarks.sparkplug_codec.best`."""
    began = time.process_time()
    work()
    calls = max(1, int(0.02 / max(time.process_time() - began, 1e-6)))
    least = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        for _ in range(calls):
            work()
        least = min(least, (time.process_time() - began) / calls)
    return least


def main(repeats: int, sizes: list[int]) -> None:
    """Print the rows."""
    rows = []
    for count in sizes:
        sent = message(count)
        content = sent.encode()
        case, name = f"DATA {count} by name", "pysparkplug"
        rows.append((case, name, "encode", best(sent.encode, repeats) / count * 1e6, "us/metric"))
        decoding = best(partial(pysparkplug.DBirth.decode, content), repeats)
        rows.append((case, name, "decode", decoding / count * 1e6, "us/metric"))
        rows.append((case, name, "size", len(content) / count, "bytes/metric"))
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(one) for one in sys.argv[2].split(",")])
