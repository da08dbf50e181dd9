"""The targets file: what is scaled, where, by which signals and how. Pure.

    targets:
      - name: gateway
        platform: {kind: kubernetes, options: {url: "https://10.0.0.1:6443", namespace: web, deployment: gateway,
                   token_file: /etc/tidegate/k8s.token}}
        signals:
          - {name: requests, source: {type: telemetry, where: "tags.role = 'gateway'", metric: http.requests,
             aggregate: sum}, unit: 1/s, per_instance: 25}
        minimum: 1
        maximum: 40

Beside `name`, `platform`, `period_s` and `dry_run`, the keys of a target are those of its policy (`core.target`).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from cloud_hub.autoscale.core.signals import SignalRule
from cloud_hub.autoscale.core.sources import Source
from cloud_hub.autoscale.core.target import TargetPolicy
from cloud_hub.yaml_files import decode
from shared.errors import ConfigError

CURE = "Correct it: every key is in docs/autoscaling.md; `tidegate-hub autoscale check FILE` checks it"
MOST_TARGETS = 2000

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")


class Platform(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scaler plug-in (entry point `tidegate.scalers`) and its own options."""

    kind: str
    options: dict[str, Any] = {}


class SignalEntry(SignalRule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signal: its rule, and where it comes from."""

    source: Source


class TargetEntry(TargetPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One target. It is decided on every `period_s` seconds; with `dry_run` the platform is never changed.

    `busy` counts the busy instances: with `drain_s`, a scale-in waits until there are none, or for `drain_s`.
    """

    name: str
    platform: Platform
    signals: tuple[SignalEntry, ...]
    period_s: float = 15.0
    dry_run: bool = False
    busy: Source | None = None

    @property
    def policy(self) -> TargetPolicy:
        """The policy alone, as decisions are made and replayed with."""
        fields = {name: getattr(self, name) for name in TargetPolicy.__struct_fields__}
        names = SignalRule.__struct_fields__
        rules = tuple(SignalRule(**{name: getattr(signal, name) for name in names}) for signal in self.signals)
        return TargetPolicy(**(fields | {"signals": rules}))

    def problems(self) -> list[str]:
        """What does not fit together, each with its cure."""
        found = TargetPolicy.problems(self)
        if not NAME.match(self.name):
            found.append("its name must be up to 63 lower-case letters, digits and '-', as a DNS label")
        if not 1 <= self.period_s <= 3600:
            found.append("period_s must lie in 1..3600 seconds")
        if self.busy is not None and (reason := self.busy.problem()):
            found.append(f"busy: {reason}")
        for signal in self.signals:
            if reason := signal.source.problem():
                found.append(f"signal {signal.name}: source: {reason}")
            if signal.fresh_s < self.period_s and self.period_s >= 1:
                found.append(f"signal {signal.name}: fresh_s {signal.fresh_s:g} is shorter than period_s")
        return found


class TargetsFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    targets: tuple[TargetEntry, ...]


def read(text: str, name: str) -> tuple[TargetEntry, ...]:
    """Read the text of a targets file `name`. ConfigError names the line, the fault and the cure."""
    found = decode(text, TargetsFile, name, CURE).targets
    if len(found) > MOST_TARGETS:
        raise ConfigError(name, f"has {len(found)} targets, more than {MOST_TARGETS}", "Split it between hubs")
    seen: set[str] = set()
    for target in found:
        if target.name in seen:
            raise ConfigError(place(name, text, target.name, last=True), f"'{target.name}' stands twice", CURE)
        seen.add(target.name)
        if problems := target.problems():
            where = place(name, text, target.name)
            raise ConfigError(where, f"target '{target.name}': {'; '.join(problems)}", CURE)
    _require_own_platforms(found, text, name)
    return found


def _require_own_platforms(found: tuple[TargetEntry, ...], text: str, name: str) -> None:
    """Raise ConfigError for two targets of one group: each would undo what the other does."""
    owners: dict[tuple[str, frozenset[str]], str] = {}
    for target in found:
        options = frozenset(map(repr, target.platform.options.items()))  # keys and values of any type
        owner = owners.setdefault((target.platform.kind, options), target.name)
        if owner != target.name:
            reason = f"target '{target.name}' scales the same platform as '{owner}'"
            raise ConfigError(place(name, text, target.name), reason, "Give one target the signals of both")


def place(name: str, text: str, target: str, *, last: bool = False) -> str:
    """The file with the line on which a target's name stands."""
    lines = [n for n, line in enumerate(text.splitlines(), 1) if f"name: {target}" in line or f'"{target}"' in line]
    return f"{name}, line {lines[-1 if last else 0]}" if lines else name
