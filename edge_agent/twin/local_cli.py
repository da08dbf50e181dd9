"""`tidegate-edge twin`: shows and changes twin documents on the device, with or without a hub.

It communicates with the agent through the agent's state store: requests are durable, so an agent that is not running
processes them when it starts. No port is opened.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_agent.store.statestore import SCHEMA_VERSION
from shared.errors import TidegateError
from shared.twin.merge import patch, with_value
from shared.twin.shadow import MAX_LEVELS, State

EXIT_WAITS = 75
"""EX_TEMPFAIL of sysexits.h: the request is stored, but the agent has not processed it yet."""


def parse_assignments(assignments: Iterable[str]) -> State:
    """Parse assignments such as `settings.period_s=0.5` into one patch of desired state; raises ValueError.

    The value is JSON; other text is a string. null: no longer desired.
    """
    result: State = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        keys = tuple(path.split("."))
        if not equals or not all(keys) or len(keys) > MAX_LEVELS:
            raise ValueError(f"'{text[:80]}' is not of the form PATH=JSON, such as settings.period_s=0.5")
        result = with_value(result, keys, _value(value))
    return result


def _value(text: str) -> Any:
    """Parse JSON; other text is a string, except NaN and Infinity, which raise ValueError."""
    if text in {"NaN", "Infinity", "-Infinity"}:
        raise ValueError(f"{text} is no JSON: give PATH=JSON")
    try:
        return json.loads(text)
    except ValueError:
        return text


def twins(file: Path) -> dict[str, State]:
    """All documents by name: desired, reported, and changes that the hub does not have yet."""
    with closing(_open(file)) as db:
        rows = db.execute("SELECT substr(key, 6), value FROM kept WHERE substr(key, 1, 5) = 'twin:'").fetchall()
    return {name: _shown(json.loads(value)) for name, value in sorted(rows)}


def _shown(kept: State) -> State:
    desired: State = kept.get("desired", {})
    base: State = ({"base": desired} | kept)["base"]
    shown = {"version": kept.get("version", 0), "desired": desired, "reported": kept.get("reported", {})}
    pending = patch(base, desired)
    return shown | ({"pending": pending} if pending else {})


def submit_request(file: Path, name: str, state: State) -> int:
    """Store a request for the agent, durably; returns its number. `name` is a document, or QUESTION."""
    with closing(_open(file)) as db:
        cursor = db.execute("INSERT INTO requests (document, wanted) VALUES (?, ?)", (name, json.dumps(state)))
        return int(cursor.lastrowid or 0)


def wait_for_answer(file: Path, number: int, wait_s: float) -> Any:
    """The answer to a request; None if the agent has not answered within `wait_s`. That of a change of a document is
    a list of its progress, with one entry per leaf.
    """
    end = time.monotonic() + wait_s
    with closing(_open(file)) as db:
        while True:
            row = db.execute("SELECT answer FROM requests WHERE id = ?", (number,)).fetchone()
            if row is not None and row[0] is not None:
                return json.loads(row[0])
            if time.monotonic() >= end:
                return None
            time.sleep(0.05)


def _open(file: Path) -> sqlite3.Connection:
    """Open the agent's state store; only the agent creates or repairs it."""
    if not file.exists():
        raise TidegateError(f"the agent has not run yet ({file} is not there)")
    try:
        db = sqlite3.connect(f"file:{file}?mode=rw", uri=True, isolation_level=None)
        found = db.execute("PRAGMA user_version").fetchone()[0]
        db.execute("PRAGMA synchronous=FULL")
    except sqlite3.Error as error:
        raise TidegateError(f"{file} cannot be opened ({error}). Be the agent's user, or root") from error
    if found != SCHEMA_VERSION:
        db.close()
        raise TidegateError(f"{file} is of schema {found}, this program's is {SCHEMA_VERSION}. Start the agent once")
    return db
