"""Reads Sparkplug B payloads. Everything in them is hostile: the only exception is WireError."""

from __future__ import annotations

from collections.abc import Mapping

from shared.sparkplug.datatypes import DataType
from shared.sparkplug.limits import DEFAULT, Limits
from shared.sparkplug.payload import Metric, Payload

NO_TYPES: Mapping[str | int, DataType] = {}


def decode(data: bytes, limits: Limits = DEFAULT, types: Mapping[str | int, DataType] = NO_TYPES) -> Payload:
    """The payload in `data`. Raises WireError if it is no protobuf of a Sparkplug payload, or beyond `limits`.

    `types` are the datatypes of the birth, by alias and by name. They are used for metrics that come without one, as in
    DATA; a metric that is not in `types` keeps an `Untyped` value. A value that breaks the rules of its type is
    `Invalid` with the reason; the other metrics stand.
    """
    raise NotImplementedError


def typed(metric: Metric, datatype: DataType) -> Metric:
    """The metric with this datatype: reads its `Untyped` value. A value that does not fit becomes `Invalid`."""
    raise NotImplementedError
