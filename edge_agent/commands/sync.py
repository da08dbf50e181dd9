"""Joins the commands to the link: reads the hub's messages and says the device's words, in the same trace."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_agent import clock
from edge_agent.commands.service import Commands
from edge_agent.runtime import health
from shared.codec import decode
from shared.messages import ENDED, ClockQuality, CommandCancel, CommandRequest, CommandResult
from shared.mqtt import Inbound

log = logging.getLogger(__name__)

RUN_PERIOD_S = 0.1


class CommandSync:
    """`publish(rest, message)` sends below the device's own topic; False while there is no connection.
    `refusal(inbound)` says why a message is not believed, or ''; `time` is that by which commands expire.

    A word that does not arrive is not kept here: the hub asks again with the next birth.
    """

    def __init__(
        self, commands: Commands, publish: Callable[..., bool], refusal: Callable[[Inbound], str] = lambda _: "",
        time: Callable[[], tuple[int, ClockQuality]] = lambda: (clock.now_us(), health.clock_quality()),
    ) -> None:  # fmt: skip
        self.commands, self._publish, self._refusal, self._time = commands, publish, refusal, time
        self._asked: dict[str, tuple[str, bytes]] = {}

    def received(self, rest: str, inbound: Inbound) -> None:
        """A message below `commands/`; raises WireError. The signature covers the bytes as they came."""
        now_us, quality = self._time()
        if reason := self._refusal(inbound):
            self._disbelieve(rest, inbound, reason, now_us)
        elif rest.endswith("/cancel"):
            cancel = decode(CommandCancel, inbound.payload, inbound.topic)
            self._asked[cancel.id] = (inbound.traceparent, inbound.correlation)
            self._say(self.commands.handle_cancel(cancel, now_us))
        else:
            request = decode(CommandRequest, inbound.payload, inbound.topic)
            fields = {"id": request.id, "verb": request.verb, "target": request.target}
            log.info("command.received", extra={"fields": fields, "trace": inbound.traceparent})
            self._asked[request.id] = (inbound.traceparent, inbound.correlation)
            self._say(self.commands.handle_request(request, now_us, quality))
            self.run_once()

    def _disbelieve(self, rest: str, inbound: Inbound, reason: str, now_us: int) -> None:
        """Told to who asks, so that an unsigning hub is noticed; not remembered: the real one may come."""
        fields = {"topic": inbound.topic, "reason": reason}
        log.error("command.disbelieved", extra={"fields": fields, "trace": inbound.traceparent})
        if rest.endswith("/request"):
            word = CommandResult(id=rest.split("/")[1], state="refused", t_us=now_us, text=reason)
            self._publish(f"commands/{word.id}/response", word, trace=inbound.traceparent)

    def run_once(self) -> None:
        """Called every STEP_S seconds: commands go on."""
        for word in self.commands.run_once(clock.now_us(), clock.monotonic_s()):
            self._say(word)

    def close(self) -> None:
        """The agent ends: say how commands under way have ended."""
        for word in self.commands.stopped():
            self._say(word)

    def _say(self, word: CommandResult) -> None:
        trace, correlation = self._asked.get(word.id, ("", b""))
        # Always below the device's own topic, whatever response topic a request names.
        self._publish(f"commands/{word.id}/response", word, trace=trace, correlation=correlation)
        if word.state in ENDED:
            self._asked.pop(word.id, None)
            log.info("command.done", extra={"fields": {"id": word.id, "state": word.state}, "trace": trace})
