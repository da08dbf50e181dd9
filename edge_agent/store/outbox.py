"""The outbox: stores items durably and in order until the hub acknowledges them, within a size limit.

A row is an encoded payload with consecutive sequence numbers first..last of a stream. `accept`
returns after a FULL commit. A row is deleted when the hub has acknowledged it (never on PUBACK), when it is
evicted because the store is full (telemetry first, then events, then escalations; alarms are never evicted), or when
it exceeds the age limit of its stream. Evicted, expired and damaged ranges are recorded in `lost` and reported to the
hub in order. Invariants O1-O8.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from edge_agent.store.disk import Disk, found_damage, found_full
from edge_agent.store.statestore import checksum, open_database
from shared.errors import NotReady, TidegateError
from shared.protocol.codec import MAX_ITEMS, decode, encode
from shared.protocol.messages import STREAMS, Batch, ClockQuality, Lost, Stream

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (epoch TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS streams (stream TEXT PRIMARY KEY, next INTEGER NOT NULL, acked INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
  stream TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
  payload BLOB NOT NULL, crc INTEGER NOT NULL, trace TEXT NOT NULL,
  expires_us INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (stream, first)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lost (
  stream TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (stream, first)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checkpoints (
  source TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
"""
EXPIRY = "CREATE INDEX IF NOT EXISTS rows_by_expiry ON rows (expires_us) WHERE expires_us > 0"
NEXT_ROW = """
SELECT first, last, payload, crc, trace FROM rows WHERE stream=?1 AND last>?2
  AND first>=coalesce((SELECT max(first) FROM rows WHERE stream=?1 AND first<=?2), 0) ORDER BY first LIMIT 1"""
NEXT_LOST = """
SELECT first, last, reason FROM lost WHERE stream=?1 AND last>?2
  AND first>=coalesce((SELECT max(first) FROM lost WHERE stream=?1 AND first<=?2), 0) ORDER BY first LIMIT 1"""
SIZE_UP_TO = "SELECT coalesce(sum(length(payload)), 0) FROM rows WHERE stream=?1 AND first<=?2 AND last<=?2"
"""Ranges of a stream do not overlap, so the order by `first` (the key) is also the order by `last`. Without a
bound on `first` these queries would scan the whole stream."""
EXPIRE_TOGETHER = 500
"""Maximum rows that one call of `expire` deletes, so that it never blocks the agent for long."""
ITEMS_PER_ROW = MAX_ITEMS
ROW_BYTES = 256 << 10
"""Larger payloads are split, unless they are one item: the hub refuses payloads above codec.MAX_PAYLOAD."""
EVICTION_ORDER: tuple[Stream, ...] = ("telemetry", "event", "escalation")
PAYLOAD_SHARE = 0.75
"""Share of the file's maximum size that payloads may fill; the rest is for keys, the log and deletions."""
SPARE_PAGES = 16
"""Pages of the file that stay free, for the overhead of a row and for lost ranges."""


class OutboxFull(TidegateError):
    """Nothing was stored: the outbox is full and contains only alarms, or the disk failed. The caller must log it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A payload to send, ending at sequence number `last` of `stream`."""

    stream: Stream
    last: int
    payload: bytes
    trace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatch:
    """Items of one stream to store together; `trace` is their traceparent."""

    stream: Stream
    items: Sequence[Any]
    trace: str = ""


class Outbox:
    """The outbox at `path`. `new_epoch` is the epoch of a new file.

    `keep_s` are age limits of streams in seconds; streams without one are kept until they are acknowledged.
    A damaged file, found at the start or later, is moved aside, and a new file with another `epoch` begins.
    """

    def __init__(
        self, path: Path, max_bytes: int, new_epoch: str, disk: Disk | None = None,
        keep_s: Mapping[Stream, float] | None = None,
    ) -> None:  # fmt: skip
        self._path, self._max_bytes, self._new_epoch = path, max_bytes, new_epoch
        self._disk, self._keep_s = disk or Disk(path.parent, reserve=0), dict(keep_s or {})
        self._checkpoints: dict[str, bytes] = {}
        self._begin()

    def _begin(self) -> None:
        self._db = open_database(self._path, SCHEMA_VERSION, SCHEMA, self._disk)
        if reason := find_inconsistency(self._db):
            self._db.close()
            self._disk.set_aside(self._path, reason)
            self._db = open_database(self._path, SCHEMA_VERSION, SCHEMA, self._disk)
        if "expires_us" not in {name for _, name, *_ in self._db.execute("PRAGMA table_info(rows)")}:
            self._db.execute("ALTER TABLE rows ADD COLUMN expires_us INTEGER NOT NULL DEFAULT 0")
        self._db.execute(EXPIRY)
        page = self._db.execute("PRAGMA page_size").fetchone()[0]
        self._page: int = page
        self._cap = int(self._max_bytes * PAYLOAD_SHARE)
        self.restore_page_limit()
        new_epoch, self._new_epoch = self._new_epoch, sha256(self._new_epoch.encode()).hexdigest()[:16]
        self._db.executemany("INSERT OR IGNORE INTO streams VALUES (?, 1, 0)", [(stream,) for stream in STREAMS])
        if self._db.execute("SELECT epoch FROM meta").fetchone() is None:  # last: a file with an epoch has all streams
            self._db.execute("INSERT INTO meta VALUES (?)", (new_epoch,))
        self.epoch: str = self._db.execute("SELECT epoch FROM meta").fetchone()[0]
        self.bytes: int = self._db.execute("SELECT coalesce(sum(length(payload)), 0) FROM rows").fetchone()[0]
        self.last: dict[Stream, int] = {s: n - 1 for s, n in self._db.execute("SELECT stream, next FROM streams")}
        self.acked: dict[Stream, int] = dict(self._db.execute("SELECT stream, acked FROM streams").fetchall())
        self._put_checkpoints(self._checkpoints)  # after a damaged file was replaced
        for source, value, crc in self._db.execute("SELECT source, value, crc FROM checkpoints").fetchall():
            if isinstance(value, bytes) and crc == checksum(source, value):
                self._checkpoints[source] = value

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def restore_page_limit(self) -> None:
        """Allow the file to grow to its configured size again, after the disk was full."""
        self._limit_pages(self._max_bytes // self._page)

    def _limit_pages(self, pages: int) -> None:
        self._max_pages = max(64, pages)
        self._db.execute(f"PRAGMA max_page_count={self._max_pages}")

    def _replace_file(self, reason: str) -> None:
        """Move the damaged file aside and begin a new one with another epoch. Rows not yet sent are lost."""
        self._db.close()
        self._disk.set_aside(self._path, reason)
        self._begin()

    def _recover(self, error: BaseException | None) -> bool:
        """Handle a damaged file or a full disk; returns whether to retry."""
        if found_damage(error):
            self._replace_file(str(error))
            return True
        if found_full(error) and self._disk.release_reserve():
            (pages,) = self._db.execute("PRAGMA page_count").fetchone()
            self._limit_pages(int(pages))  # from now on new rows evict old ones
            return True
        return False

    # -- in ----------------------------------------------------------------------------------------

    def accept(
        self,
        lots: Sequence[RowBatch],
        clock: ClockQuality,
        now_us: int = 0,
        checkpoints: Mapping[str, bytes] | None = None,
    ) -> None:
        """Store all items or none; durable when this returns. Raises OutboxFull.

        `checkpoints` are the positions of sources after these items. Items stored while the clock is `unsynced` never
        expire, because their age is unknown.
        """
        try:
            self._accept(lots, clock, now_us, checkpoints or {})
        except OutboxFull as error:
            if not self._recover(error.__cause__):
                raise
            self._accept(lots, clock, now_us, checkpoints or {})
        self._checkpoints |= checkpoints or {}

    def checkpoint(self, source: str) -> bytes | None:
        """The latest stored checkpoint of `source`; None if there is none or it is damaged."""
        return self._checkpoints.get(source)

    def _accept(
        self, lots: Sequence[RowBatch], clock: ClockQuality, now_us: int, checkpoints: Mapping[str, bytes]
    ) -> None:
        before, size = dict(self.last), self.bytes
        try:
            with self._transaction():
                for lot in lots:
                    for start in range(0, len(lot.items), ITEMS_PER_ROW):
                        self._insert(lot, lot.items[start : start + ITEMS_PER_ROW], clock, now_us)
                self._put_checkpoints(checkpoints)
        except (sqlite3.Error, OutboxFull) as error:
            self.last, self.bytes = before, size
            raise OutboxFull(f"nothing was stored: {error}") from error

    def _put_checkpoints(self, checkpoints: Mapping[str, bytes]) -> None:
        rows = [(source, value, checksum(source, value)) for source, value in checkpoints.items()]
        self._db.executemany("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)", rows)

    @contextmanager
    def _unsynced(self) -> Iterator[None]:
        """Commit without fsync: a power cut before the next durable commit reverts it."""
        self._db.execute("PRAGMA synchronous=NORMAL")
        try:
            yield
        finally:
            self._db.execute("PRAGMA synchronous=FULL")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run statements in a transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _insert(self, lot: RowBatch, items: Sequence[Any], clock: ClockQuality, now_us: int) -> None:
        first = self.last[lot.stream] + 1
        last = first + len(items) - 1
        payload = encode(Batch(epoch=self.epoch, first=first, clock=clock, items=list(items)))
        if len(payload) > ROW_BYTES and len(items) > 1:
            for half in (items[: len(items) // 2], items[len(items) // 2 :]):
                self._insert(lot, half, clock, now_us)
            return
        self._make_room(len(payload))
        keep_s = self._keep_s.get(lot.stream, 0) if clock != "unsynced" else 0
        expires_us = now_us + int(keep_s * 1e6) if keep_s else 0
        row = (lot.stream, first, last, payload, zlib.crc32(payload), lot.trace, expires_us)
        self._db.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        self._db.execute("UPDATE streams SET next=? WHERE stream=?", (last + 1, lot.stream))
        self.last[lot.stream] = last
        self.bytes += len(payload)

    def expire(self, now_us: int) -> int:
        """Delete rows beyond their age limit and record them as `expired`; returns how many. Call it only while the
        clock is synchronized."""
        try:
            return self._expire(now_us)
        except sqlite3.DatabaseError as error:
            if not self._recover(error):
                raise
            return 0

    def _expire(self, now_us: int) -> int:
        # `> 0` as in the index; otherwise SQLite does not use it and reads every row.
        query = "SELECT stream, first, last, length(payload) FROM rows WHERE expires_us > 0 AND expires_us <= ? LIMIT ?"
        old = sorted(self._db.execute(query, (now_us, EXPIRE_TOGETHER)).fetchall())
        if old:
            with self._transaction():
                for stream, first, last, _ in old:
                    self._lose(stream, first, last, "expired")
            self.bytes -= sum(length for *_, length in old)
        return len(old)

    def _make_room(self, size: int) -> None:
        while self.bytes + size > self._cap or self._free_pages() < size // self._page + SPARE_PAGES:
            victim = next(filter(None, map(self._oldest, EVICTION_ORDER)), None)
            if victim is None:
                raise OutboxFull("the outbox holds alarms only and is full")
            stream, first, last, length = victim
            self._lose(stream, first, last, "evicted")
            self.bytes -= length

    def _free_pages(self) -> int:
        """Free pages. Bytes alone are not enough: a payload of 1 kB may take a page of 4 kB."""
        (used,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return self._max_pages - int(used) + int(free)

    def _oldest(self, stream: Stream) -> tuple[Stream, int, int, int] | None:
        query = "SELECT stream, first, last, length(payload) FROM rows WHERE stream=? ORDER BY first LIMIT 1"
        row: tuple[Stream, int, int, int] | None = self._db.execute(query, (stream,)).fetchone()
        return row

    def _lose(self, stream: Stream, first: int, last: int, reason: str) -> None:
        """Delete a row and record its range as lost, joined to the preceding one."""
        self._db.execute("DELETE FROM rows WHERE stream=? AND first=?", (stream, first))
        joined = self._db.execute(
            "UPDATE lost SET last=?1 WHERE stream=?2 AND last=?3-1 AND reason=?4"
            " AND first=(SELECT max(first) FROM lost WHERE stream=?2 AND first<?3)",
            (last, stream, first, reason),
        )
        if not joined.rowcount:
            self._db.execute("INSERT INTO lost VALUES (?, ?, ?, ?)", (stream, first, last, reason))

    # -- out ---------------------------------------------------------------------------------------

    def after(self, stream: Stream, seq: int) -> Row | None:
        """The next payload of `stream` after `seq`: stored items, or a lost range."""
        try:
            return self._after(stream, seq)
        except sqlite3.DatabaseError as error:
            if not self._recover(error):
                raise
            return None

    def _after(self, stream: Stream, seq: int) -> Row | None:
        row = self._db.execute(NEXT_ROW, (stream, seq)).fetchone()
        lost = self._db.execute(NEXT_LOST, (stream, seq)).fetchone()
        if lost is not None and (row is None or lost[0] < row[0]):
            batch = Batch(epoch=self.epoch, first=lost[0], lost=Lost(last=lost[1], reason=lost[2]))
            return Row(stream=stream, last=lost[1], payload=encode(batch), trace="")
        if row is None:
            return None
        first, last, payload, crc, trace = row
        if not isinstance(payload, bytes) or zlib.crc32(payload) != crc:
            with self._transaction():
                self._lose(stream, first, last, "damaged")
            self.bytes -= len(payload or b"")
            return self._after(stream, seq)
        return Row(stream=stream, last=last, payload=payload, trace=trace)

    def forget(self, stream: Stream, upto: int) -> None:
        """Delete `stream` up to `upto`, which the hub has stored. Not synced to disk: rows that reappear after a power
        cut are sent again, and the hub ignores duplicates."""
        try:
            self._forget(stream, upto)
        except sqlite3.DatabaseError as error:
            if not self._recover(error):
                raise
            if not found_damage(error):
                self._forget(stream, upto)

    def _forget(self, stream: Stream, upto: int) -> None:
        where = (stream, upto)
        with self._unsynced(), self._transaction():
            (size,) = self._db.execute(SIZE_UP_TO, where).fetchone()
            self._db.execute("DELETE FROM rows WHERE stream=?1 AND first<=?2 AND last<=?2", where)
            self._db.execute("DELETE FROM lost WHERE stream=?1 AND first<=?2 AND last<=?2", where)
            self._db.execute("UPDATE streams SET acked=max(acked, ?) WHERE stream=?", (upto, stream))
        self.bytes -= size
        self.acked[stream] = max(self.acked[stream], upto)

    def renew(self, epoch: str) -> None:
        """Begin a new epoch: all rows are renumbered from 1 in their order and are pending again.

        Rows are rewritten one by one, because the store may be larger than memory. A new number is never greater than
        the old one, so it cannot collide with a later row.
        """
        with self._transaction():
            last = {stream: self._renumber(stream, epoch) for stream in STREAMS}
            self._db.executemany(
                "UPDATE streams SET next=?, acked=0 WHERE stream=?", [(n + 1, s) for s, n in last.items()]
            )
            self._db.execute("UPDATE meta SET epoch=?", (epoch,))
            (size,) = self._db.execute("SELECT coalesce(sum(length(payload)), 0) FROM rows").fetchone()
        self.epoch, self.last, self.bytes = epoch, last, size
        self.acked = dict.fromkeys(STREAMS, 0)

    def _renumber(self, stream: Stream, epoch: str) -> int:
        """Renumber one stream for a new epoch; returns its last number."""
        lost = self._db.execute("SELECT first, last, reason FROM lost WHERE stream=?", (stream,)).fetchall()
        stored = self._db.execute("SELECT first, last, NULL FROM rows WHERE stream=?", (stream,)).fetchall()
        self._db.execute("DELETE FROM lost WHERE stream=?", (stream,))
        before = 0
        for first, last, reason in sorted(lost + stored, key=lambda entry: int(entry[0])):
            start, before = before + 1, before + last - first + 1
            if reason is not None:
                self._db.execute("INSERT INTO lost VALUES (?, ?, ?, ?)", (stream, start, before, reason))
                continue
            where = (stream, first)
            payload, crc = self._db.execute(
                "SELECT payload, crc FROM rows WHERE stream=? AND first=?", where
            ).fetchone()
            if not isinstance(payload, bytes) or zlib.crc32(payload) != crc:
                self._db.execute("DELETE FROM rows WHERE stream=? AND first=?", where)
                self._db.execute("INSERT INTO lost VALUES (?, ?, ?, 'damaged')", (stream, start, before))
                continue
            fresh = encode(replace(decode(Batch, payload), epoch=epoch, first=start))
            self._db.execute(
                "UPDATE rows SET first=?, last=?, payload=?, crc=? WHERE stream=? AND first=?",
                (start, before, fresh, zlib.crc32(fresh), *where),
            )
        return before

    def waiting(self) -> int:
        """Number of items not yet acknowledged by the hub, over all streams."""
        return sum(self.last[stream] - self.acked[stream] for stream in STREAMS)


def find_inconsistency(db: sqlite3.Connection) -> str:
    """Why rows and sequence numbers are inconsistent, or ''. Finds damage that SQLite's own check does not."""
    try:
        return _find_missing_stream(db) or _find_gap(db) or _find_foreign_row(db)
    except sqlite3.DatabaseError as error:
        if not found_damage(error):
            raise
        return str(error)


def _find_missing_stream(db: sqlite3.Connection) -> str:
    """Find a stream without its numbers in a file that has been used: they would begin at 1 again in the same epoch,
    and the hub would take new items for duplicates."""
    if db.execute("SELECT 1 FROM meta").fetchone() is None:
        return ""
    missing = set(STREAMS) - {stream for (stream,) in db.execute("SELECT stream FROM streams")}
    return f"{', '.join(sorted(missing))}: its numbers are missing" if missing else ""


def _find_gap(db: sqlite3.Connection) -> str:
    """Check that rows and lost ranges cover all numbers from the acknowledged one to the next one without a gap."""
    for stream, following, acked in db.execute("SELECT stream, next, acked FROM streams").fetchall():
        query = "SELECT first, last FROM rows WHERE stream=? UNION ALL SELECT first, last FROM lost WHERE stream=?"
        expected = None
        if not all(isinstance(number, int) for number in (following, acked)):
            return f"{stream}: its numbers are invalid"
        for first, last in db.execute(f"{query} ORDER BY 1", (stream, stream)):
            if not all(isinstance(number, int) for number in (first, last)) or last < first:
                return f"{stream}: its numbers are invalid"
            if (expected is None and not first <= acked + 1 <= last) or expected not in {None, first}:
                return f"{stream}: {first}..{last} does not follow what is before it"
            expected = last + 1
        if following != (acked + 1 if expected is None else expected):
            return f"{stream}: the next number would be {following}"
    return ""


def _find_foreign_row(db: sqlite3.Connection) -> str:
    """Find rows of an unknown stream, or of another epoch."""
    if {stream for (stream,) in db.execute("SELECT DISTINCT stream FROM rows")} - set(STREAMS):
        return "it has a stream of no known name"
    epochs = db.execute("SELECT epoch FROM meta").fetchall()
    if len(epochs) > 1 or not all(isinstance(epoch, str) and 0 < len(epoch) <= 32 for (epoch,) in epochs):
        return "its epoch is invalid"
    row = db.execute("SELECT payload, crc, (SELECT epoch FROM meta) FROM rows LIMIT 1").fetchone()
    if row and isinstance(row[0], bytes) and zlib.crc32(row[0]) == row[1] and decode(Batch, row[0]).epoch != row[2]:
        return "its rows are of another epoch"
    return ""


def status(path: Path) -> dict[str, Any]:
    """Status of an outbox file: epoch, counts by stream, lost ranges. Works while the agent is running.

    Raises NotReady while an agent makes the file at its first start.
    """
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        meta = db.execute("SELECT epoch FROM meta").fetchone() if {"meta", "streams", "lost"} <= tables else None
        if meta is None:
            raise NotReady(f"{path} is being made by an agent that starts", 1.0)
        rows = db.execute("SELECT stream, next, acked FROM streams ORDER BY stream").fetchall()
        lost = db.execute("SELECT stream, first, last, reason FROM lost ORDER BY stream, first").fetchall()
    finally:
        db.close()
    streams = {stream: {"accepted": following - 1, "at_hub": acked} for stream, following, acked in rows}
    return {"epoch": meta[0], "streams": streams, "lost": lost}
