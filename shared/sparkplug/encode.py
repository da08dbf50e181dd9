"""Writes Sparkplug B payloads. Strict: what the specification forbids is refused, not sent."""

from __future__ import annotations

from shared.sparkplug.payload import Payload


def encode(payload: Payload, *, with_datatypes: bool = True) -> bytes:
    """The bytes of `payload`. Raises ValueError that names the metric, what is wrong and what to do.

    Every metric needs its datatype (or an `Untyped` value). With `with_datatypes=False` the datatypes of metrics only
    choose the encoding and are not sent: the form that the specification recommends for DATA and CMD messages.
    """
    raise NotImplementedError
