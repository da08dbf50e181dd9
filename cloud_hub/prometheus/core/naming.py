"""Maps the labels of a Prometheus series to a device and a metric. Pure; the rules are in docs/prometheus.md.

Names here allow fewer characters, so two series may map to the same name; the receiver then uses `disambiguate`, which
appends a short hash of the series. A series keeps its first name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

NOT_NAMED = ("__name__", "instance", "job")
REPLICA = ("prometheus_replica", "__replica__")
"""Labels that only distinguish replicas of a Prometheus server; their series are the same."""
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_PORT = re.compile(r":\d{1,5}\Z")
DEVICE_MOST, METRIC_MOST, SALT = 60, 128, 8
LABELS_MOST, TEXT_MOST = 64, 1024


def validate_labels(labels: list[tuple[str, str]]) -> dict[str, str]:
    """The validated labels of a series; raises ValueError with the reason if they are invalid."""
    valid = {key: value for key, value in labels if value and key not in REPLICA}
    if len(labels) != len(dict(labels)):
        raise ValueError("duplicate label")
    if len(labels) > LABELS_MOST or any(len(value) > TEXT_MOST for pair in labels for value in pair):
        raise ValueError(f"more than {LABELS_MOST} labels, or one of more than {TEXT_MOST} signs")
    if not _NAME.match(valid.get("__name__", "")):
        raise ValueError("a series without a metric name in __name__")
    if wrong := [key for key in valid if not _LABEL.match(key)]:
        raise ValueError(f"'{wrong[0][:60]}' is not a valid label name")
    if any("\0" in value for value in valid.values()):
        raise ValueError("a label value contains NUL")
    return valid


def digest(*parts: str | Mapping[str, str]) -> str:
    """A hash of the parts: 32 hexadecimal digits."""
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        texts = [part] if isinstance(part, str) else [text for pair in sorted(part.items()) for text in pair]
        for text in (str(len(texts)), *texts):
            raw = text.encode("utf-8", "surrogatepass")
            made.update(b"%d:%b" % (len(raw), raw))
    return made.hexdigest()


def host(labels: Mapping[str, str]) -> str:
    """The host of a series: its instance without the port, else its job."""
    return _PORT.sub("", labels.get("instance", "")) or labels.get("job", "") or "prometheus"


def device(where: str) -> str:
    """A device id for a host: lower case, other characters become '-'."""
    return (_slug(where).lstrip("_-") or "x")[:DEVICE_MOST]


def metric(labels: Mapping[str, str]) -> str:
    """A metric's name: job, metric, and each other label as `label-value`, joined by '/'."""
    words = [labels["job"]] if labels.get("job") else []
    words += [labels["__name__"], *(f"{key}-{labels[key]}" for key in sorted(labels) if key not in NOT_NAMED)]
    whole = "/".join(_slug(part) for part in words)
    return whole if len(whole) <= METRIC_MOST else disambiguate(whole, digest(labels), METRIC_MOST)


def disambiguate(name: str, number: str, most: int) -> str:
    """The name with the start of a digest appended, if the name itself is taken."""
    return f"{name[: most - SALT - 1].rstrip('/')}-{number[:SALT]}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())
