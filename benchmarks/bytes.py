"""Measures bytes per device-day: on the wire by encoding, and written to flash by commit interval.

    python -m benchmarks.bytes [--commits 300] [--json FILE]

The metric set: 11 metrics of a machine, one sample of each a second, values that wander with two decimals: 950,400
samples a day. **Wire**: MQTT PUBLISH packets with topic, content type and packet identifier, without TCP, TLS and
acknowledgements; one sample a message as plain JSON, and a batch for each commit as JSON, MessagePack, JSON under zlib
and both under zstd (where `zstandard` is installed).
**Flash**: a real outbox; each commit is accepted, and forgotten at once, as if the hub had it. Bytes that the kernel
sent to the disk (`/proc/self/io`, write_bytes), checkpoints included. Limits: the file system's own journal and the
flash's erase blocks come on top; a temporary folder in memory writes nothing and is left out.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.report import Row, arguments, publish
from edge_agent.store.outbox import ITEMS_PER_ROW, Outbox, RowBatch
from shared.protocol.codec import deflate, encode
from shared.protocol.messages import Batch, Sample

METRICS = ["cpu.load", "cpu.temperature", "memory.used", "memory.swap", "disk.used", "disk.read", "disk.written",
           "network.received", "network.sent", "process.count", "line/speed"]  # fmt: skip
DAY_S = 86_400
BEGAN_US = 1_795_236_000_000_000
TOPIC = "tidegate/v1/things/press-3/telemetry"
OVERHEAD = 1 + 3 + 2 + len(TOPIC) + 2 + 1 + 3 + len("application/json")
"""Fixed header, length, topic, packet identifier, properties with the content type (MQTT 5.0 section 3.3)."""
INTERVALS_S = (1, 2, 5, 10, 30, 60)


def seconds(count: int, dice: random.Random) -> list[list[Sample]]:
    """`count` seconds of all metrics."""
    values = {metric: dice.uniform(10, 90) for metric in METRICS}
    found = []
    for second in range(count):
        for metric in METRICS:
            values[metric] = max(0.0, round(values[metric] + dice.gauss(0, 0.5), 2))
        found.append([Sample(metric=m, t_us=BEGAN_US + second * 1_000_000 + dice.randrange(900), value=v)
                      for m, v in values.items()])  # fmt: skip
    return found


def rows_of(taken: list[list[Sample]], interval_s: int) -> list[Batch]:
    """The batches that an outbox makes of it at one commit every `interval_s`."""
    batches, first = [], 1
    for start in range(0, len(taken), interval_s):
        items = [one for second in taken[start : start + interval_s] for one in second]
        for at in range(0, len(items), ITEMS_PER_ROW):
            part = items[at : at + ITEMS_PER_ROW]
            batches.append(Batch(epoch="599eddca0566dc5f", first=first, items=part))
            first += len(part)
    return batches


def wire(taken: list[list[Sample]]) -> list[Row]:
    """Megabytes a device-day by form."""
    scale = DAY_S / len(taken) / 1e6
    plain = sum(len(encode(one)) + OVERHEAD for second in taken for one in second)
    rows = [Row("wire, 1 sample a message", "plain JSON", "a device-day", plain * scale, "MB")]
    forms: dict[str, Callable[[Batch], bytes]] = {
        "JSON": encode,
        "MessagePack": msgspec.msgpack.encode,
        "JSON + zlib (shipped)": lambda b: deflate(encode(b))[0],
    }
    if (zstd := _zstd()) is not None:
        forms |= {
            "JSON + zstd": lambda b: zstd(encode(b)),
            "MessagePack + zstd": lambda b: zstd(msgspec.msgpack.encode(b)),
        }
    for interval_s in INTERVALS_S:
        batches = rows_of(taken, interval_s)
        for name, form in forms.items():
            size = sum(len(form(batch)) + OVERHEAD for batch in batches)
            rows.append(Row(f"wire, a batch every {interval_s} s", name, "a device-day", size * scale, "MB"))
    return rows


def _zstd() -> Callable[[bytes], bytes] | None:
    try:
        import zstandard  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    return zstandard.ZstdCompressor(level=3).compress


def written() -> int:
    """Bytes that this process has sent to a disk."""
    lines = Path("/proc/self/io").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])


def flash(taken: list[list[Sample]], interval_s: int, commits: int) -> float:
    """Megabytes a device-day written by an outbox that commits every `interval_s`."""
    with tempfile.TemporaryDirectory() as name:
        outbox = Outbox(Path(name) / "outbox.sqlite", 256_000_000, "599eddca0566dc5f")
        before = written()
        for number in range(commits):
            items = [one for at in range(interval_s) for one in taken[(number * interval_s + at) % len(taken)]]
            outbox.accept([RowBatch(stream="telemetry", items=items)], "synced")
            outbox.forget("telemetry", outbox.last["telemetry"])
        size = written() - before
        outbox.close()
    return size / commits * DAY_S / interval_s / 1e6


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "", commits=300)
    taken = seconds(3600, random.Random(options.seed))
    rows = wire(taken)
    for interval_s in INTERVALS_S:
        size = flash(taken, interval_s, options.commits)
        if size == 0:
            print("the temporary folder is in memory: flash is left out (set TMPDIR)")
            break
        rows.append(Row("flash, outbox", f"a commit every {interval_s} s", "a device-day", size, "MB"))
    publish("bytes", options.seed, rows, options.json)


if __name__ == "__main__":
    main()
