"""Connects the twin documents to link and disk: validates the hub's messages and executes the effects."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from edge_agent.store.statestore import StateStore
from edge_agent.twin.core.document import Handler
from edge_agent.twin.core.twin import DeviceTwin, Effect, Fetch, Remember, Report, RequestDesired
from shared.errors import WireError
from shared.ids import SHADOW_NAME
from shared.protocol.codec import MAX_PAYLOAD
from shared.protocol.messages import Applied
from shared.protocol.topics import split_shadow
from shared.transport.mqtt import Inbound
from shared.twin.merge import Path
from shared.twin.shadow import State, check_state, parse

log = logging.getLogger(__name__)

KEY = "twin:"
ON_SITE = "on-site"
"""Client token of a change that was made on the device."""


class TwinSync:
    """`publish(rest, message)` sends below the device's topic; False while there is no connection."""

    def __init__(self, store: StateStore, publish: Callable[..., bool]) -> None:
        self._store, self._publish = store, publish
        self._twin = DeviceTwin(store.below(KEY))

    def handle(self, name: str, path: str | Path, handler: Handler, own: Any = None) -> None:
        """Register `handler` for `path` of document `name`; `own` is in force while nothing is desired there."""
        self._twin.handle(name, path, handler, own)

    def begin(self) -> None:
        """Apply the stored desired state and pending local requests, after all handlers were registered."""
        self._twin.begin()
        self._serve()

    def fetch(self, restart: bool) -> None:
        """Get every document from the hub; `restart`: the hub epoch has changed, so reset all versions first."""
        if restart:
            self._execute(self._twin.hub_changed(), "")
        self._execute(self._twin.connected(), "")

    def tick(self) -> None:
        """Retry throttled requests and process local requests; called once a second."""
        self._execute(self._twin.tick(), "")
        if self._store.changed():
            self._serve()

    def report(self, name: str, state: State) -> None:
        """Set top-level values of reported state."""
        self._execute(self._twin.report(name, state), "")

    def retry(self, name: str, path: str | Path) -> None:
        """Call the handler of `path` again."""
        self._execute(self._twin.retry(name, path), "")

    def received(self, rest: str, inbound: Inbound) -> None:
        """A message below `shadow/`; raises WireError."""
        name, verb = split_shadow(rest) or ("", "")
        if rest.startswith("shadow/name/") and not SHADOW_NAME.match(name):
            raise WireError("is no name of a document", inbound.topic)
        try:
            effects = self._effects(name, verb, _body(inbound.payload))
        except ValueError as error:
            raise WireError(str(error), inbound.topic) from error
        self._execute(effects, inbound.traceparent)

    def _effects(self, name: str, verb: str, body: State) -> list[Effect]:
        state = body.get("state")
        if verb == "get/accepted":
            check_state(state)
            sections = [(state or {}).get(section) or {} for section in ("desired", "reported")]
            return self._twin.fetched(name, _version(body), *sections)
        if verb == "update/accepted":
            check_state(state)
            return self._twin.accepted(name, _version(body), state)
        if verb == "update/delta":
            check_state({"desired": state})
            return self._twin.delta(name, _version(body), state or {})
        if verb == "delete/accepted":
            return self._twin.deleted(name, _version(body))
        if verb == "get/rejected":
            return self._twin.missing(name) if body.get("code") == 404 else self._twin.unanswered(name)
        if verb == "update/rejected":
            return self._rejected(name, body)
        return []

    def _rejected(self, name: str, body: State) -> list[Effect]:
        code, desire = body.get("code"), body.get("clientToken") == ON_SITE
        if code != 409:
            fields = {"document": name, "reason": str(body.get("message"))[:500], "on_site": desire}
            log.error("twin.rejected", extra={"fields": fields})
        return self._twin.refused(name, code, desire=desire) if isinstance(code, int) else []

    def _serve(self) -> None:
        """Process requests of the local command line and store the answers."""
        for number, name, wanted in self._store.requests():
            try:
                results = self.set_desired(name, wanted)
            except ValueError as error:
                answer = [{"path": "", "state": "refused", "reason": str(error)}]
            else:
                answer = [{"path": result.path, "state": result.state, "reason": result.reason} for result in results]
            self._store.answer(number, answer)

    def set_desired(self, name: str, wanted: State) -> list[Applied]:
        """Change desired state on the device, as `tidegate-edge twin set` does; raises ValueError.

        Returns what was applied or refused; the hub gets the change now or when it is connected.
        """
        check_state({"desired": wanted})
        effects = self._twin.want(name, wanted)
        self._execute(effects, "")
        return [effect for effect in effects if isinstance(effect, Applied)]

    # -- effects -----------------------------------------------------------------------------------

    def _execute(self, effects: list[Effect], trace: str) -> None:
        for effect in effects:
            if isinstance(effect, Remember):
                self._store.put(f"{KEY}{effect.name}", self._twin.documents[effect.name].plain())
            elif isinstance(effect, Report):
                self._publish(_rest(effect.name, "update"), {"state": {"reported": effect.reported}}, trace=trace)
            elif isinstance(effect, RequestDesired):
                version = {} if effect.version is None else {"version": effect.version}
                body = {"state": {"desired": effect.desired}, "clientToken": ON_SITE} | version
                self._publish(_rest(effect.name, "update"), body, trace=trace)
            elif isinstance(effect, Fetch):
                self._publish(_rest(effect.name, "get"), {})
            else:
                self._publish("applied", effect, trace=trace)
                fields = {"document": effect.shadow, "path": effect.path, "state": effect.state,
                          "reason": effect.reason}  # fmt: skip
                level = logging.WARNING if effect.state == "refused" else logging.INFO
                log.log(level, "twin.applied", extra={"fields": fields, "trace": trace})


def _body(payload: bytes) -> State:
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"{len(payload)} bytes are more than the {MAX_PAYLOAD} allowed")
    body = parse(payload)
    if not isinstance(body, dict):
        raise ValueError("a twin message is an object")
    return body


def _version(body: State) -> int:
    version = body.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or not 0 < version < 1 << 53:
        raise ValueError("a twin message needs a version, a whole number from 1 on")
    return version


def _rest(name: str, verb: str) -> str:
    return f"shadow/name/{name}/{verb}" if name else f"shadow/{verb}"
