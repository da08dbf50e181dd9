"""The rules that are judged, and which statements of the specification each one is about.

Many statements say the same of a message in different chapters, so one rule serves several; and a statement with two
conditions is about several rules: it holds when all of them hold. The words are ours, the ids are the specification's
(without their prefix `tck-id-`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Role(str, Enum):
    """Whose conduct is judged."""

    EDGE = "edge"
    HOST = "host"
    BROKER = "broker"


class Level(str, Enum):
    """How binding a statement is: a SHOULD that is not followed is advice, a MAY cannot be violated."""

    MUST = "must"
    SHOULD = "should"
    MAY = "may"


class Scenario(str, Enum):
    """The official compatibility kit's division into scenarios."""

    ESTABLISHMENT = "session establishment"
    TERMINATION = "session termination"
    DATA = "data"
    COMPLEX = "complex data types"
    COMMANDS = "commands"
    PRIMARY = "primary host"
    SERVERS = "multiple servers"
    ORDERING = "message ordering"
    BROKER = "broker"


class Need(str, Enum):
    """What must be watched to judge a rule."""

    PUBLISHES = "a subscriber"
    CONNECTION = "the proxy (--listen)"
    STIMULUS = "a stimulus (--stimulate)"
    OPERATOR = "an answer (--ask)"
    SERVERS = "proxies before several brokers"


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is judged. `ids` are the statements, `text` what a conformant implementation does."""

    name: str
    roles: frozenset[Role]
    scenario: Scenario
    need: Need
    level: Level
    text: str
    ids: tuple[str, ...]


def rule(name: str, where: str, text: str, ids: str) -> Rule:
    """A rule from its row. `where` is 'roles scenario need level' in short, as in 'E establishment publishes must'."""
    roles, scenario, need, level = where.split()
    return Rule(
        name=name,
        roles=frozenset(_ROLES[letter] for letter in roles),
        scenario=Scenario[scenario.upper()],
        need=Need[need.upper()],
        level=Level[level.upper()],
        text=text,
        ids=tuple(ids.split()),
    )


_ROLES = {"E": Role.EDGE, "H": Role.HOST, "B": Role.BROKER}
