"""Options that all plant collectors have."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge_agent.collectors.plant.csv_file import csv_rows
from edge_agent.collectors.plant.tags import Tag, TagT, columns, parse_tags, toml_rows
from edge_agent.config import CollectorTable
from shared.errors import ConfigError
from shared.suggestions import nearest

DEFAULT_GROUP = "default"


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A polling group: its tags are read every `period_s`."""

    period_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0.02 <= self.period_s <= 86_400:
            raise ValueError("period_s must be within 0.02..86400")


class PlantOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tags are given in `tags` or in the CSV file `tags_file`. Their metrics are `<prefix>/<name>`; the prefix is the
    collector's name unless it is set, and "" leaves it away.

    A value that was not read for `stale_s` is `uncertain`, one not read for `bad_s` is `bad`; 0 for `stale_s`: three
    periods of its group, at least 5 s. A value that does not change is sent again every `resend_s`. A write must be
    answered within `write_timeout_s`.
    """

    tags: list[Any] = []
    tags_file: str = ""
    prefix: str | None = None
    stale_s: float = 0.0
    bad_s: float = 60.0
    resend_s: float = 60.0
    write_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if bool(self.tags) == bool(self.tags_file):
            raise ValueError("give the tags either in `tags` or in `tags_file`")
        if not 0 <= self.stale_s <= 86_400 or not 0.1 <= self.bad_s <= 864_000 or self.stale_s > self.bad_s:
            raise ValueError("stale_s must be within 0..86400, bad_s within 0.1..864000, and stale_s at most bad_s")
        if not 1 <= self.resend_s <= 86_400 or not 0.5 <= self.write_timeout_s <= 300:
            raise ValueError("resend_s must be within 1..86400 and write_timeout_s within 0.5..300")


def read_tags(chosen: PlantOptions, kind: type[TagT], place: str, groups: Mapping[str, Group]) -> list[TagT]:
    """The tags of a collector at `place`; raises ConfigError. `groups` are all, the default one among them."""
    if chosen.tags_file:
        tags = parse_tags(csv_rows(Path(chosen.tags_file), columns(kind)), kind, chosen.tags_file)
    else:
        tags = parse_tags(toml_rows(chosen.tags, place), kind, place)
    _check_groups(tags, groups, chosen.tags_file or place)
    return tags


def _check_groups(tags: Sequence[Tag], groups: Mapping[str, Group], place: str) -> None:
    for tag in tags:
        if tag.group not in groups:
            reason = f"tag '{tag.name}': there is no group '{tag.group}'{nearest(tag.group, groups)}"
            raise ConfigError(place, reason, f"Add it: [collectors.groups.{tag.group}]")


def needs_library(table: CollectorTable, module: str, extra: str) -> None:
    """Raise ConfigError where the client's library is not installed; it is not imported in the agent's process."""
    if importlib.util.find_spec(module) is None:
        place = f"collector '{table.name}' (kind {table.kind})"
        cure = f"Install the extra `{extra}`: pip install 'tidegate[{extra}]'"
        raise ConfigError(place, f"{module} is not installed", cure)
