"""Runs a check: starts what watches, provokes if asked to, waits, and returns the verdicts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cloud_hub.scada.conformance.brokers import Broker
from cloud_hub.scada.conformance.core.checker import Scope
from cloud_hub.scada.conformance.core.names import read_topic
from cloud_hub.scada.conformance.core.report import Status, Verdict
from cloud_hub.scada.conformance.core.rules import Role
from cloud_hub.scada.conformance.proxy import Proxy
from cloud_hub.scada.conformance.simulated_node import PREFIX
from cloud_hub.scada.conformance.stimulus import Nobody, Operator, Stage
from cloud_hub.scada.conformance.stimulus_broker import BrokerStimulus
from cloud_hub.scada.conformance.stimulus_edge import EdgeStimulus
from cloud_hub.scada.conformance.stimulus_host import HostStimulus
from cloud_hub.scada.conformance.subscriber import Subscriber
from cloud_hub.scada.conformance.watch import Watch

PROGRESS_S = 15.0
"""A long wait says so often that it still goes on."""
_STIMULI: dict[Role, type[EdgeStimulus] | type[HostStimulus] | type[BrokerStimulus]] = {
    Role.EDGE: EdgeStimulus,
    Role.HOST: HostStimulus,
    Role.BROKER: BrokerStimulus,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to check. `listen` has one (host, port) for each broker, or none: then a subscriber watches."""

    scope: Scope
    brokers: Sequence[Broker]
    listen: Sequence[tuple[str, int]] = ()
    for_s: float = 60.0
    stimulate: bool = False
    operator: Operator = field(default_factory=Nobody)


@dataclass(frozen=True, slots=True)
class Result:
    """The verdicts, whether anything was seen that they are about, what kept the checker from watching, and edge nodes
    outside the scope that were seen, as group/node.
    """

    verdicts: list[Verdict]
    seen: bool
    problems: list[str]
    others: list[str] = field(default_factory=list)

    @property
    def violated(self) -> bool:
        """Whether a statement is violated."""
        return any(one.status is Status.VIOLATED for one in self.verdicts)


@contextlib.contextmanager
def watching(plan: Plan) -> Iterator[tuple[Watch, list[int]]]:
    """Watch while the block runs; gives the watch and the ports of the proxies."""
    watch = Watch(plan.scope)
    with contextlib.ExitStack() as stack:
        ports = []
        for server, broker in enumerate(plan.brokers):
            if plan.listen:
                proxy = Proxy(watch, server, broker, *plan.listen[server])
                stack.callback(proxy.close)
                ports.append(proxy.port)
            elif plan.scope.role is not Role.BROKER:
                subscriber = Subscriber(watch, server, broker, _simulated)
                stack.callback(subscriber.close)
        yield watch, ports


def _simulated(topic: str) -> bool:
    """Whether a topic is of the checker's own node. Commands to it are the host's, and judged."""
    name = read_topic(topic)
    return name is not None and name.node.startswith(PREFIX) and name.type not in ("NCMD", "DCMD")


def provoke(plan: Plan, watch: Watch, progress: Callable[[str], None]) -> None:
    """Run the scenarios of the role."""
    stimulus = _STIMULI[plan.scope.role](Stage(watch, plan.operator, progress), list(plan.brokers))
    try:
        stimulus.run()
    finally:
        stimulus.close()


def check(plan: Plan, progress: Callable[[str], None]) -> Result:
    """Check, and return the verdicts; after an interrupt (Ctrl-C) those so far.

    Raises NotReady when a broker cannot be reached, ConfigError for files and ports that cannot be used.
    """
    with watching(plan) as (watch, ports):
        for port, broker in zip(ports, plan.brokers, strict=False):
            progress(f"listening on port {port} for clients of {broker}: let them connect here")
        try:
            if plan.stimulate:
                provoke(plan, watch, progress)
            _wait(watch, plan.for_s, progress)
        except KeyboardInterrupt:
            progress("interrupted: this is what was seen so far")
        return result(watch)


def result(watch: Watch) -> Result:
    """The result so far."""
    watch.tick()
    found = watch.verdicts()
    seen = any(one.kept or one.violated for one in found)  # messages of other groups say nothing about the scope
    return Result(found, seen, list(watch.problems), watch.others())


def _wait(watch: Watch, seconds: float, progress: Callable[[str], None]) -> None:
    left = seconds
    while left > 0:
        progress(f"watching for {left:.0f} s more; {watch.messages()} messages of Sparkplug so far")
        watch.wait(min(left, PROGRESS_S))
        left -= PROGRESS_S
