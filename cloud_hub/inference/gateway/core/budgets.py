"""Budgets of a day (UTC) in tokens, engine seconds and money, for tenants, devices and the whole hub.

The largest possible use of a request is reserved before it starts, so that requests in flight cannot overspend, and
replaced by its real use at the end. With a budget of 0 that dimension is not limited.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cloud_hub.inference.gateway.core.refusals import Refusal

DAY_US = 86_400_000_000
Kind = Literal["hub", "tenant", "device"]
Subject = tuple[Kind, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The limits of a subject for one day; `name` "*" is every subject of the kind that has none of its own."""

    kind: Kind
    name: str = "*"
    tokens: int = 0
    seconds: float = 0.0
    money: float = 0.0


@dataclass(slots=True)
class Usage:
    """What was used on one day."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    money: float = 0.0

    def add(self, other: Usage) -> None:
        """Add another usage."""
        self.requests += other.requests
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        self.seconds += other.seconds
        self.money += other.money

    def negated(self) -> Usage:
        """The same with all signs changed."""
        return Usage(-self.requests, -self.tokens_in, -self.tokens_out, -self.seconds, -self.money)

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers."""
        return self.tokens_in + self.tokens_out


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a request in flight may use, and of whom."""

    day: int
    subjects: tuple[Subject, ...]
    usage: Usage


@dataclass(slots=True)
class BudgetLedger:
    """Usage of the current day, and reservations, by subject. A new day begins with nothing used."""

    budgets: Sequence[Budget] = ()
    day: int = 0
    used: dict[Subject, Usage] = field(default_factory=dict)
    changed: set[Subject] = field(default_factory=set)
    _reserved: dict[Subject, Usage] = field(default_factory=dict)

    def reserve(self, subjects: Iterable[Subject], usage: Usage, now_us: int) -> Reservation | Refusal:
        """Reserve the largest use of a request, or refuse it."""
        self._turn(now_us)
        wanted = tuple(subjects)
        for subject in wanted:
            if refusal := self._over(subject, usage, now_us):
                return refusal
        for subject in wanted:
            self._reserved.setdefault(subject, Usage()).add(usage)
        return Reservation(self.day, wanted, usage)

    def settle(self, reservation: Reservation, usage: Usage, now_us: int) -> None:
        """Replace a reservation by the real use; a request that began yesterday counts today."""
        self._turn(now_us)
        for subject in reservation.subjects:
            if reservation.day == self.day and subject in self._reserved:
                self._reserved[subject].add(reservation.usage.negated())
                if self._reserved[subject].requests <= 0:
                    del self._reserved[subject]
            self.used.setdefault(subject, Usage()).add(usage)
            self.changed.add(subject)

    def load(self, day: int, rows: Iterable[tuple[Subject, Usage]]) -> None:
        """Take over what was used before a restart."""
        self.day = day
        self.used = dict(rows)

    def limit(self, subject: Subject) -> Budget | None:
        """The budget of a subject."""
        kind, name = subject
        own = [budget for budget in self.budgets if budget.kind == kind and budget.name in (name, "*")]
        return max(own, key=lambda budget: budget.name != "*", default=None)

    def _over(self, subject: Subject, usage: Usage, now_us: int) -> Refusal | None:
        budget = self.limit(subject)
        if budget is None:
            return None
        total = Usage()
        for part in (self.used.get(subject), self._reserved.get(subject), usage):
            if part is not None:
                total.add(part)
        over = [
            name
            for name, spent, most in (
                ("tokens", total.tokens, budget.tokens),
                ("seconds", total.seconds, budget.seconds),
                ("money", total.money, budget.money),
            )
            if most and spent > most
        ]
        if not over:
            return None
        kind, name = subject
        reason = f"the daily budget of {kind} '{name}' in {over[0]} does not cover this request: lower max_tokens, wait"
        return Refusal(
            code="budget", reason=f"{reason} until midnight UTC, or raise it", retry_after_s=_rest_of_day_s(now_us)
        )

    def _turn(self, now_us: int) -> None:
        day = now_us // DAY_US
        if day > self.day:  # a clock that is set back does not give the day again
            self.day, self.used, self._reserved, self.changed = day, {}, {}, set()


def _rest_of_day_s(now_us: int) -> float:
    return float((DAY_US - now_us % DAY_US) // 1_000_000 + 1)
