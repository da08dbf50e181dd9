"""Connects commands to the link: decodes the hub's messages and publishes results in the same trace."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_agent import clock
from edge_agent.commands.service import Commands
from edge_agent.runtime import health
from shared.protocol.codec import decode
from shared.protocol.messages import ENDED, ClockQuality, CommandCancel, CommandRequest, CommandResult
from shared.transport.mqtt import Inbound

log = logging.getLogger(__name__)

RUN_PERIOD_S = 0.1


class CommandSync:
    """`publish(rest, message)` sends below the device's topic; False while there is no connection.
    `refusal(inbound)` returns why a message is rejected, or ''; `time` is the time by which commands expire.

    Results that do not arrive are not stored here: the hub requests them again after the next birth.
    """

    def __init__(
        self, commands: Commands, publish: Callable[..., bool], refusal: Callable[[Inbound], str] = lambda _: "",
        time: Callable[[], tuple[int, ClockQuality]] = lambda: (clock.now_us(), health.clock_quality()),
    ) -> None:  # fmt: skip
        self.commands, self._publish, self._refusal, self._time = commands, publish, refusal, time
        self._contexts: dict[str, tuple[str, bytes]] = {}

    def received(self, rest: str, inbound: Inbound) -> None:
        """Handle a message below `commands/`; raises WireError. The signature covers the bytes as received."""
        now_us, quality = self._time()
        if reason := self._refusal(inbound):
            self._reject(rest, inbound, reason, now_us)
        elif rest.endswith("/cancel"):
            cancel = decode(CommandCancel, inbound.payload, inbound.topic)
            self._contexts[cancel.id] = (inbound.traceparent, inbound.correlation)
            self._publish_result(self.commands.handle_cancel(cancel, now_us))
        else:
            request = decode(CommandRequest, inbound.payload, inbound.topic)
            fields = {"id": request.id, "verb": request.verb, "target": request.target}
            log.info("command.received", extra={"fields": fields, "trace": inbound.traceparent})
            self._contexts[request.id] = (inbound.traceparent, inbound.correlation)
            self._publish_result(self.commands.handle_request(request, now_us, quality))
            self.run_once()

    def _reject(self, rest: str, inbound: Inbound, reason: str, now_us: int) -> None:
        """Answer that a message is rejected, so that a hub that does not sign is noticed. Not stored, because a
        correctly signed request with this id may follow."""
        fields = {"topic": inbound.topic, "reason": reason}
        log.error("command.disbelieved", extra={"fields": fields, "trace": inbound.traceparent})
        if rest.endswith("/request"):
            result = CommandResult(id=rest.split("/")[1], state="refused", t_us=now_us, text=reason)
            self._publish(f"commands/{result.id}/response", result, trace=inbound.traceparent)

    def run_once(self) -> None:
        """Advance running commands; called every RUN_PERIOD_S seconds."""
        for result in self.commands.run_once(clock.now_us(), clock.monotonic_s()):
            self._publish_result(result)

    def close(self) -> None:
        """End running commands because the agent stops, and publish their results."""
        for result in self.commands.stopped():
            self._publish_result(result)

    def _publish_result(self, result: CommandResult) -> None:
        trace, correlation = self._contexts.get(result.id, ("", b""))
        # Always below the device's own topic, whatever response topic a request names.
        self._publish(f"commands/{result.id}/response", result, trace=trace, correlation=correlation)
        if result.state in ENDED:
            self._contexts.pop(result.id, None)
            log.info("command.done", extra={"fields": {"id": result.id, "state": result.state}, "trace": trace})
