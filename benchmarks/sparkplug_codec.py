"""Measures Sparkplug payload codecs: microseconds per metric to encode and to decode, bytes per metric.

    python -m benchmarks.sparkplug_codec [--repeats 7] [--json FILE]

`benchmarks.sparkplug` calls `measure()`. Beside our codec: Google's `protobuf` runtime (where it is installed) with the
same field numbers, read into and written from the same `Payload`; pysparkplug, where `.venv-interop` has it; JSON of
the same content by msgspec, from and to plain dicts. DATA messages have float metrics without properties; births have
four properties a metric. Best of several repeats, in processor time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.report import Row, arguments, publish
from shared.sparkplug.datatypes import DataType
from shared.sparkplug.decode import decode
from shared.sparkplug.encode import encode
from shared.sparkplug.payload import GOOD, QUALITY, Metric, Payload, Property

INTEROP = Path(__file__).resolve().parent.parent / ".venv-interop" / "bin" / "python"
NOW_MS = 1_795_236_000_000
DATA_SIZES = (1, 10, 100, 1000)
BIRTH_SIZES = (100, 1000, 10_000)


@dataclass(frozen=True, slots=True)
class Codec:
    """A codec under test; both functions work on one message of the case."""

    name: str
    encode: Callable[[], bytes]
    decode: Callable[[], object]


def data(count: int, *, aliases: bool) -> Payload:
    """A DATA message of `count` float metrics."""
    return Payload(
        timestamp=NOW_MS,
        seq=1,
        metrics=tuple(
            Metric(
                name=None if aliases else f"Line 1/Motor {n}/temperature",
                alias=n if aliases else None,
                timestamp=NOW_MS,
                datatype=DataType.Float,
                value=20.0 + n / 4,
            )
            for n in range(count)
        ),
    )


def birth(count: int) -> Payload:
    """A birth of `count` float metrics with unit, range and quality; every tenth has a range of its own."""
    return Payload(
        timestamp=NOW_MS,
        seq=0,
        metrics=tuple(
            Metric(
                name=f"Line 1/Motor {n}/temperature",
                alias=n,
                timestamp=NOW_MS,
                datatype=DataType.Float,
                value=20.0 + n / 4,
                properties={
                    "engUnit": Property(DataType.String, "°C"),
                    "engLow": Property(DataType.Double, -20.0),
                    "engHigh": Property(DataType.Double, 80.0 + (n if n % 10 == 0 else 0)),
                    QUALITY: Property(DataType.Int32, GOOD),
                },
            )
            for n in range(count)
        ),
    )


def own(payload: Payload, *, with_datatypes: bool = True) -> Codec:
    """Our codec; without datatypes, `decode` has those of the birth."""
    content = encode(payload, with_datatypes=with_datatypes)
    types = {} if with_datatypes else {one.alias: one.datatype for one in payload.metrics if one.alias is not None}
    known: dict[str | int, DataType] = {alias: found for alias, found in types.items() if found is not None}
    return Codec(
        "tidegate",
        lambda: encode(payload, with_datatypes=with_datatypes),
        lambda: decode(content, types=known),
    )


def as_json(payload: Payload) -> Codec:
    """JSON by msgspec of the same fields, decoded into plain dicts (values have no class in JSON)."""
    encoder, decoder = msgspec.json.Encoder(), msgspec.json.Decoder()
    plain = _without_defaults(payload)
    content = encoder.encode(plain)
    return Codec("JSON (msgspec, to dicts)", lambda: encoder.encode(plain), lambda: decoder.decode(content))


def _without_defaults(payload: Payload) -> dict[str, Any]:
    """The fields that are set, as Sparkplug's JSON form of a payload has them."""

    def kept(one: Any) -> Any:
        if isinstance(one, msgspec.Struct):
            return {
                key: kept(found) for key, found in msgspec.structs.asdict(one).items() if found not in (None, False)
            }
        if isinstance(one, tuple):
            return [kept(item) for item in one]
        if isinstance(one, dict):
            return {key: kept(found) for key, found in one.items()}
        return one.name if isinstance(one, DataType) else one

    found: dict[str, Any] = kept(payload)
    return found


def best(work: Callable[[], object], repeats: int) -> float:
    """Processor seconds of one call: the best of `repeats` runs of about 20 ms each."""
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


def rows_of(case: str, codec: Codec, metrics: int, repeats: int) -> list[Row]:
    """The three figures of one codec and case."""
    return [
        Row(case, codec.name, "encode", best(codec.encode, repeats) / metrics * 1e6, "us/metric"),
        Row(case, codec.name, "decode", best(codec.decode, repeats) / metrics * 1e6, "us/metric"),
        Row(case, codec.name, "size", len(codec.encode()) / metrics, "bytes/metric"),
    ]


def cases() -> list[tuple[str, Payload, bool]]:
    """(name, payload, whether datatypes are sent) of every case."""
    found = []
    for count in DATA_SIZES:
        found.append((f"DATA {count} by alias", data(count, aliases=True), False))
        found.append((f"DATA {count} by name", data(count, aliases=False), True))
    return found + [(f"BIRTH {count}", birth(count), True) for count in BIRTH_SIZES]


def measure(repeats: int = 7) -> list[Row]:
    """Rows of every case and codec that can be imported here."""
    rows: list[Row] = []
    for case, payload, with_datatypes in cases():
        codecs = [own(payload, with_datatypes=with_datatypes), *_protobuf(payload), as_json(payload)]
        for codec in codecs:
            rows += rows_of(case, codec, len(payload.metrics), repeats)
    return rows + pysparkplug(repeats) + memory()


def _protobuf(payload: Payload) -> list[Codec]:
    try:
        from benchmarks.sparkplug_protobuf import codec  # noqa: PLC0415 - google.protobuf is no dependency of ours
    except ImportError:
        return []
    encoded, decoded, content = codec(payload)
    return [Codec("protobuf runtime", encoded, lambda: decoded(content))]


def pysparkplug(repeats: int) -> list[Row]:
    """Rows of pysparkplug, which needs an environment of its own (paho before 2); none if that is missing."""
    if not INTEROP.exists():
        return []
    script = Path(__file__).with_name("sparkplug_codec_pysparkplug.py")
    sizes = ",".join(str(one) for one in DATA_SIZES)
    done = subprocess.run([INTEROP, script, str(repeats), sizes], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"pysparkplug was not measured: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return []
    return [Row(*row) for row in json.loads(done.stdout)]


IMPORTS = {
    "tidegate": "import shared.sparkplug.decode, shared.sparkplug.encode",
    "protobuf runtime": "import google.protobuf.descriptor_pb2, google.protobuf.message_factory",
}
MEMORY = """
import msgspec, sys
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
{imports}
print(resident() - before)
"""


def memory() -> list[Row]:
    """Resident bytes that each codec's import adds in a process that has msgspec, as every agent does."""
    rows = []
    for name, imports in IMPORTS.items():
        command = [sys.executable, "-c", MEMORY.format(imports=imports)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            rows.append(Row("import", name, "memory", int(done.stdout) / 1e6, "MB"))
    return rows


if __name__ == "__main__":
    options = arguments("Sparkplug codecs", repeats=7)
    publish("sparkplug_codec", options.seed, measure(options.repeats), options.json)
