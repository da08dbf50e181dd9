"""From the agent's names to Sparkplug names: which device a metric belongs to, and what it is called there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from edge_agent.config.sparkplug import Sparkplug

ALARMS, SETTINGS, WRITES, PROPERTIES = "Alarms/", "Settings/", "Writes/", "Properties/"
RESERVED = ("Node Control/", ALARMS, SETTINGS, WRITES, PROPERTIES)
"""Beginnings of names that no template may produce."""
MAX_NAME = 500
"""Maximum characters of a name."""


@dataclass(frozen=True, slots=True)
class Place:
    """A metric in the node's namespace; `device` is '' for the node itself."""

    device: str
    name: str


class Naming:
    """Names by the templates of `[sparkplug]`. `collectors` maps a metric, or the part of its name before the first
    slash, to the collector or model that gives it.
    """

    def __init__(self, config: Sparkplug, device: str, collectors: Mapping[str, str]) -> None:
        self._device, self._collectors = device, collectors
        self._groups = [(group.id, group.metrics, group.names) for group in config.devices]
        self._groups.append(("", config.metrics, config.names))

    def place(self, metric: str) -> Place | None:
        """The place of a metric: in the first device whose patterns match, else on the node; None: not published."""
        for device, patterns, template in self._groups:
            if any(fnmatchcase(metric, pattern) for pattern in patterns):
                return Place(device, self._name(template, metric))
        return None

    def alarm(self, metric: str, condition: str) -> Place | None:
        """The place of an alarm: beside its metric. `condition` is what it is about, such as `high` or `rate`."""
        return self._beside(metric, f"{ALARMS}{metric}/{condition}")

    def write(self, metric: str) -> Place | None:
        """The place of the outcome of the last write to a metric: beside it."""
        return self._beside(metric, f"{WRITES}{metric}")

    def _beside(self, metric: str, name: str) -> Place | None:
        place = self.place(metric)
        return None if place is None else Place(place.device, name)

    def _name(self, template: str, metric: str) -> str:
        fields = {
            "metric": metric, "path": metric.replace(".", "/"), "device": self._device,
            "collector": self._collectors.get(metric) or self._collectors.get(metric.partition("/")[0], "agent"),
        }  # fmt: skip
        return template.format_map(fields)


def name_problem(name: str) -> str:
    """Why a name cannot be used, or ''."""
    if not 0 < len(name) <= MAX_NAME:
        return f"has {len(name)} characters, 1 to {MAX_NAME} are allowed"
    if name == "bdSeq" or name.startswith(RESERVED):
        return "begins like a name of the edge node itself"
    return ""
