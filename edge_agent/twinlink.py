"""Joins the twin's core to the link and the disk: parses the hub's documents, carries out the effects."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from edge_agent.keep import Keep
from edge_agent.twin import Effect, Handler, LocalDocument, Remember, Report, Twin
from shared.codec import decode
from shared.mqtt import Inbound
from shared.topics import split_shadow
from shared.twin import State

log = logging.getLogger(__name__)

NAMES = ("", "thresholds", "gates")
"""The documents of a device: classic (itself and its settings), its limits, its gates."""


class TwinLink:
    """`publish(rest, message)` sends below the device's own topic; False while there is no connection."""

    def __init__(self, keep: Keep, publish: Callable[..., bool]) -> None:
        self._keep, self._publish = keep, publish
        kept = {name: keep.get(f"twin:{name}", None) for name in NAMES}
        self._twin = Twin({name: LocalDocument(**(value or {})) for name, value in kept.items()})

    def handle(self, name: str, key: str, handler: Handler) -> None:
        """Let `handler` act on desired `key` of document `name`."""
        self._twin.handle(name, key, handler)

    def fetch(self, restart: bool) -> None:
        """The hub is there: get every document; after another life of the hub, as if for the first time."""
        if restart:
            self._carry_out(self._twin.hub_changed(), "")
        for name in NAMES:
            self._publish(_rest(name, "get"), {})

    def report(self, name: str, state: State) -> None:
        """Something about the device changed."""
        self._carry_out(self._twin.report(name, state), "")

    def received(self, rest: str, inbound: Inbound) -> None:
        """A message below `shadow/`; raises WireError."""
        name, verb = split_shadow(rest) or ("", "")
        if name not in NAMES:
            return
        body = decode(dict[str, Any], inbound.payload, inbound.topic)
        effects: list[Effect] = []
        if verb == "get/accepted":
            effects = self._twin.fetched(name, body)
        elif verb == "get/rejected" and body.get("code") == 404:
            effects = self._twin.missing(name)
        elif verb == "update/delta":
            effects = self._twin.delta(name, body)
        elif verb == "update/rejected":
            log.error("twin.rejected", extra={"fields": {"document": name, "reason": body.get("message")}})
        self._carry_out(effects, inbound.traceparent)

    def _carry_out(self, effects: list[Effect], trace: str) -> None:
        for effect in effects:
            if isinstance(effect, Remember):
                document = self._twin.documents[effect.name]
                self._keep.put(f"twin:{effect.name}", msgspec.to_builtins(document))
            elif isinstance(effect, Report):
                self._publish(_rest(effect.name, "update"), {"state": {"reported": effect.reported}}, trace=trace)
            else:
                self._publish("applied", effect, trace=trace)
                fields = {
                    "document": effect.shadow,
                    "path": effect.path,
                    "state": effect.state,
                    "reason": effect.reason,
                }
                if effect.state != "received":
                    log.info("twin.applied", extra={"fields": fields, "trace": trace})


def _rest(name: str, verb: str) -> str:
    return f"shadow/name/{name}/{verb}" if name else f"shadow/{verb}"
