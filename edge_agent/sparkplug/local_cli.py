"""`tidegate-edge write`: switches writes from SCADA on and off, lists them, and tries one without carrying it out."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.config import Config
from edge_agent.sparkplug.switches import SwitchFile
from edge_agent.sparkplug.writes import OUTCOMES
from edge_agent.store.statestore import WRITE_TRIAL
from edge_agent.twin.local_cli import submit_request, wait_for_answer
from shared.errors import ConfigError
from shared.plant.write_rules import WriteRule
from shared.suggestions import nearest

_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*(s|m|min|h|d)\Z")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A writable metric: its rule in words, until when it is enabled and by whom ('' if off), its last outcome."""

    metric: str
    rule: str
    until: str
    by: str
    last: str


def duration_s(text: str) -> float:
    """Seconds of `30m`, `8h`, `2d`; raises ValueError."""
    found = _DURATION.match(text.strip())
    if found is None:
        raise ValueError(f"'{text[:40]}' is no duration: write for example 30m, 8h or 2d")
    return float(found[1]) * _SECONDS[found[2]]


def rules(config: Config) -> dict[str, WriteRule]:
    """The declared rules by metric; raises ConfigError without `[sparkplug]`."""
    if config.sparkplug is None:
        raise ConfigError("sparkplug", "is not configured on this device", "Add a table [sparkplug] to its file")
    return {rule.metric: rule for rule in config.sparkplug.writable}


def check_declared(config: Config, metrics: list[str]) -> None:
    """Raise ConfigError unless each metric has a rule."""
    declared = rules(config)
    for metric in metrics:
        if metric not in declared:
            known = ", ".join(sorted(declared)[:20]) or "none"
            reason = f"'{metric[:200]}' is not declared writable{nearest(metric, declared)}; declared are: {known}"
            raise ConfigError("sparkplug.writable", reason, "Add a [[sparkplug.writable]] table, if it may be written")


def listing(config: Config) -> list[Row]:
    """All writable metrics. Raises ConfigError if the switches cannot be read."""
    folder = Path(config.device.state_dir)
    file = SwitchFile(folder)
    switches, last = file.read(), _outcomes(folder / "kept.sqlite")
    if file.problem:
        raise ConfigError("write", file.problem, "`tidegate-edge write disable` makes a new one, with all writes off")
    rows = []
    for metric, rule in sorted(rules(config).items()):
        switch = switches.get(metric)
        until, by = (_until(switch.until_us), switch.by) if switch and file.is_on(switch) else ("", "")
        rows.append(Row(metric=metric, rule=rule_text(rule), until=until, by=by, last=last.get(metric, "")))
    return rows


def rule_text(rule: WriteRule) -> str:
    """A rule in words."""
    parts = [f"{rule.low:g}..{rule.high:g}"] if rule.low is not None and rule.high is not None else []
    if rule.allowed:
        parts.append("one of " + ", ".join(json.dumps(value) for value in rule.allowed[:10]))
    if rule.max_step is not None:
        parts.append(f"steps of {rule.max_step:g}")
    parts.append(f"{rule.per_minute} a minute")
    if rule.min_interval_s:
        parts.append(f"every {rule.min_interval_s:g} s")
    if rule.only_while:
        parts.append(f"only while {rule.only_while}")
    return ", ".join(parts)


def trial(config: Config, metric: str, value: str, wait_s: float) -> dict[str, Any] | None:
    """What the running agent would do with a write; None if it has not answered."""
    file = Path(config.device.state_dir) / "kept.sqlite"
    number = submit_request(file, WRITE_TRIAL, {"metric": metric, "value": _value(value)})
    answer: dict[str, Any] | None = wait_for_answer(file, number, wait_s)
    return answer


def _value(text: str) -> Any:
    """A number or a boolean as in JSON; other text is text."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, (bool, int, float)) else text


def _outcomes(file: Path) -> dict[str, str]:
    """The last outcomes that the agent has stored; none if it has not run."""
    if not file.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
            row = db.execute("SELECT value FROM kept WHERE key=?", (OUTCOMES,)).fetchone()
        return msgspec.json.decode(row[0], type=dict[str, str]) if row else {}
    except (sqlite3.Error, msgspec.MsgspecError):
        return {}


def _until(t_us: int) -> str:
    return datetime.fromtimestamp(t_us / 1e6, timezone.utc).astimezone().isoformat(sep=" ", timespec="minutes")
