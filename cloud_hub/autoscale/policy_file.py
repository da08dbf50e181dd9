"""Reads policies from a YAML file, with errors that name the place and the cure.

policies:
  reactive:
    signals: [{name: requests, per_instance: 25, unit: 1/s}]
    maximum: 40
    prediction: {mode: never}
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from cloud_hub.autoscale.core.cost import PriceTable
from cloud_hub.autoscale.core.target import TargetPolicy
from cloud_hub.yaml_files import decode
from shared.errors import ConfigError

CURE = "The keys of a policy are in docs/autoscaling.md"
MOST_POLICIES = 20


class PolicyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Policies by name."""

    policies: dict[str, TargetPolicy]


def check(place: str, policy: TargetPolicy) -> None:
    """Raise ConfigError for a policy that does not fit together."""
    problems = policy.problems()
    if problems:
        raise ConfigError(place, "; ".join(problems), CURE)


def read_policies(file: Path) -> dict[str, TargetPolicy]:
    """The policies of a file; raises ConfigError."""
    found = decode(_text(file), PolicyFile, str(file), CURE).policies
    if not 0 < len(found) <= MOST_POLICIES:
        raise ConfigError(str(file), f"has {len(found)} policies", f"Name 1 to {MOST_POLICIES} under policies:")
    for name, policy in found.items():
        check(f"{file}, policies.{name}", policy)
    return found


def read_prices(file: Path) -> PriceTable:
    """The table of prices of a file; raises ConfigError."""
    found = decode(_text(file), PriceTable, str(file), CURE)
    problems = [text for row in found.prices if (text := row.problem())]
    if problems or not found.prices:
        raise ConfigError(str(file), "; ".join(problems) or "has no prices", "Write prices an hour, above 0")
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), f"cannot be read: {error}", "Name a readable file in UTF-8") from error
