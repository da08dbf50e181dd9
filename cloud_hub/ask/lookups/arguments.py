"""The arguments of the tools, with their bounds."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

MOST = 20
"""Findings of one call."""

Name = Annotated[str, msgspec.Meta(max_length=200)]
Span = Annotated[float, msgspec.Meta(gt=0, le=366 * 86_400)]


class Where(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A condition of the query language, such as tags.site = 'a' AND state = 'offline'; '' is every device."""

    where: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class OneDevice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device, by its id."""

    device: Name


class Twin(OneDevice, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A twin document of a device; '' is the classic one."""

    name: Name = ""


class Values(OneDevice, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Last values of a device: of one metric, or '' for all."""

    metric: Name = ""


class Series(OneDevice, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric of a device over the last `since_s` seconds."""

    metric: Name
    since_s: Span = 86_400.0


class Highest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The devices with the highest 95th percentile of a metric over the last `since_s` seconds."""

    metric: Name
    since_s: Span = 86_400.0
    where: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class Alarms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Alarms of a device ('' for all): those raised now, or all of the last `since_s` seconds."""

    device: Name = ""
    state: Literal["raised", "cleared", ""] = ""
    since_s: Span | None = None


class Incidents(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Incidents of a device ('' for all) that are unresolved, or were opened in the last `since_s` seconds."""

    device: Name = ""
    state: Literal["unresolved", "resolved", ""] = ""
    since_s: Span | None = None


class IncidentId(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An incident, by its id."""

    id: Name


class Period(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last `since_s` seconds; of a device, or '' for all."""

    device: Name = ""
    since_s: Span = 86_400.0
