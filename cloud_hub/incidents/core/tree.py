"""A small decision tree over features of the evidence, for what the rules leave open. Pure.

It is heard where it did better than the rules on simulated incidents that it was not trained on, and nowhere else.

`benchmarks.incidents` trains it on simulated incidents and writes it as a file that a person can read; nothing is
trained or unpickled here. A tree proposes no changing action.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cloud_hub.incidents.core.evidence import EvidenceItem

FAMILIES: dict[str, re.Pattern[str]] = {
    name: re.compile(words, re.I)
    for name, words in {
        "temperature": "temp|therm|温",
        "fan": r"\bfan|rpm|风扇|风机",
        "disk": "disk|storage|filesystem|磁盘|存储",
        "memory": r"mem|swap|\brss|oom|内存",
        "cpu": r"cpu|\bload|处理器|负载",
        "network": r"\bnet|packet|link|latency|rtt|丢包|网络|链路",
        "power": "volt|power|battery|电压|电源",
        "vibration": "vibrat|bearing|accel|振动|轴承",
        "camera": "camera|frame|相机|摄像|画面",
        "model": r"age_s\b|model|inference|模型|推理",
        "clock": r"clock|\bntp|\bptp|time.?sync|时钟|对时",
        "certificate": r"certif|\btls|x509|证书",
        "error": r"error|fail|refused|timed? ?out|错误|失败|超时|故障",
    }.items()
}
"""Words of a metric's name or a log line, in both languages, by what they are about."""
ABOUTS = ("no-data", "flat", "peers", "service", "anomaly", "forecast", "rate")
TEXT = 200
"""How many characters of a name or a line are looked at."""
SHORTEST = 8
"""The fewest values whose course is judged."""
WINDOW_US = 900_000_000
"""How long before the first alarm a change counts as recent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What a tree concludes. `path` names the features that were present on the way there."""

    cause: str
    confidence: float
    path: str


class Node(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A decision (`feature` above `above`: `then`, else `otherwise`), or a leaf with a `cause`.

    The `confidence` of a leaf is the share of its cause among its training incidents, `samples` their number. One
    with the cause 'unknown' decides nothing.
    """

    feature: str = ""
    above: float = 0.0
    then: Node | None = None
    otherwise: Node | None = None
    cause: str = ""
    confidence: float = 0.0
    samples: int = 0

    def __post_init__(self) -> None:
        if (self.then is None) != (self.otherwise is None) or bool(self.cause) == (self.then is not None):
            raise ValueError("a node is a decision with `then` and `otherwise`, or a leaf with a `cause`")


class Tree(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A tree as it stands in its file.

    It is heard if it is at least `minimum` confident, and the rules came to one of the causes `asked_after`.
    """

    trained_on: str
    minimum: float
    asked_after: list[str]
    root: Node

    def decide(self, values: Mapping[str, float]) -> Opinion | None:
        """The opinion about an incident, or None if the leaf is too uncertain."""
        node, path = self.root, []
        while node.then is not None and node.otherwise is not None:
            above = values.get(node.feature, 0.0) > node.above
            path += [node.feature] if above else []
            node = node.then if above else node.otherwise
        if node.confidence < self.minimum or node.cause == "unknown":
            return None
        return Opinion(cause=node.cause, confidence=node.confidence, path=", ".join(path))


def features(items: Sequence[EvidenceItem]) -> dict[str, float]:
    """The features of an incident by name; a missing one is 0. They count kinds of facts and name no device."""
    alarms = [item for item in items if item.kind == "alarm" and item.data.get("state") != "cleared"]
    events = [item for item in items if item.kind == "event"]
    first_us = min((item.t_us for item in alarms), default=0)
    values = {
        "alarms": float(len(alarms)),
        "devices": float(len({item.device for item in alarms})),
        "metrics": float(len({(item.device, str(item.data.get("metric"))) for item in alarms})),
        "recent_changes": float(_count(items, "change", first_us - WINDOW_US, first_us)),
        "peers": float(_count(items, "peer")),
        "topology": float(_count(items, "topology")),
    }
    for item in alarms:
        about = str(item.data.get("about", ""))
        _add(values, f"alarm_about_{about}" if about in ABOUTS else "alarm_about_limit")
        kind = "low" if item.data.get("kind") == "low" else "high"
        for family in _families(str(item.data.get("metric", ""))):
            _add(values, f"alarm_{family}_{'quiet' if about in ('no-data', 'flat') else kind}")
    for item in items:
        if item.kind == "metric":
            _add(values, f"window_{course(item.data.get('values'))}")
    for item in events:
        for family in _families(item.summary):
            _add(values, f"log_{family}")
    return values


def course(values: Any) -> str:
    """The course of a window, oldest value first: still, rising, jumped, or other."""
    numbers = [float(v) for v in values if isinstance(v, (int, float))] if isinstance(values, (list, tuple)) else []
    if len(numbers) < SHORTEST:
        return "other"
    spread = max(numbers) - min(numbers)
    if spread == 0:
        return "still"
    half = (numbers[len(numbers) // 2] - numbers[0]) / spread
    if abs(numbers[-1] - numbers[0]) < spread / 2:
        return "other"
    return "rising" if 0.25 < abs(half) < 0.75 else "jumped"


def _families(text: str) -> Iterable[str]:
    return (name for name, pattern in FAMILIES.items() if pattern.search(text[:TEXT]))


def _count(items: Sequence[EvidenceItem], kind: str, since_us: int | None = None, until_us: int | None = None) -> int:
    return sum(
        item.kind == kind and (since_us is None or until_us is None or since_us <= item.t_us <= until_us)
        for item in items
    )


def _add(values: dict[str, float], name: str) -> None:
    values[name] = values.get(name, 0.0) + 1.0
