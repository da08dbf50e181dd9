"""The typed, read-only tools that answer questions. A session's scope bounds what they see, `MOST` what they return.

Each tool is a function of a session, its decoded arguments and the time; it writes nothing. An unknown device, an
invalid condition or a missing right is a refusal in words, never an error of the question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlmodel import Session

from cloud_hub.ask.core.facts import Finding, ToolCall
from cloud_hub.ask.lookups import alarms, arguments, devices
from cloud_hub.ask.lookups.arguments import MOST
from cloud_hub.ask.lookups.plans import Draft, Filled, NoArguments, PlanLookups
from cloud_hub.errors import HubError
from cloud_hub.playbooks.catalogue import PlaybookCatalogue
from cloud_hub.security.core.roles import MAY

Run = Callable[[Session, Any, int], Sequence[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool: what it does (for a language model), the type of its arguments, and the role's power that it needs."""

    about: str
    arguments: type[msgspec.Struct]
    run: Run
    power: str = "read"


def all_tools(catalogue: PlaybookCatalogue) -> dict[str, Tool]:
    """Every tool; those of plans read this catalogue of playbooks."""
    plans = PlanLookups(catalogue)
    return TOOLS | {
        "playbooks": Tool(about="Playbooks that can be run.", arguments=NoArguments, run=plans.playbooks),
        "fill_playbook": Tool(
            about="Draft a plan: a playbook with its parameters.", arguments=Filled, run=plans.fill_playbook
        ),
        "draft_playbook": Tool(
            about="Draft a plan: the YAML of a new playbook. It is checked, and never run by itself.",
            arguments=Draft, run=plans.draft_playbook,
        ),
    }  # fmt: skip


def run(
    session: Session, call: ToolCall, now_us: int, powers: frozenset[str], tools: Mapping[str, Tool] | None = None
) -> list[Finding]:
    """Run a tool: at most `MOST` findings, `more` behind them, or one finding `nothing` or `refused`."""
    shown = ", ".join(f"{key} {value}" for key, value in call.arguments.items())[:200] or "all"
    tool = (TOOLS if tools is None else tools).get(call.tool)
    if tool is None or tool.power not in powers:
        reason = "it does not exist" if tool is None else f"your role may not {tool.power}; {_who_may(tool.power)}"
        return [Finding(kind="refused", data={"tool": call.tool, "reason": reason})]
    try:
        decoded = msgspec.convert(call.arguments, tool.arguments)
        found = list(tool.run(session, decoded, now_us))
    except msgspec.ValidationError as error:
        return [Finding(kind="refused", data={"tool": call.tool, "reason": str(error)})]
    except HubError as error:
        return [Finding(kind="refused", data={"tool": call.tool, "reason": error.detail})]
    if not found:
        return [Finding(kind="nothing", data={"tool": call.tool, "arguments": shown})]
    more = [Finding(kind="more", data={"tool": call.tool, "count": MOST})] if len(found) > MOST else []
    return found[:MOST] + more


def _who_may(power: str) -> str:
    roles = [f"'{role}'" for role, powers in MAY.items() if power in powers]
    return f"ask with a token of the role {' or '.join(roles)}"


def available(powers: frozenset[str], tools: Mapping[str, Tool]) -> Mapping[str, Tool]:
    """Those of the tools that a caller with these powers may use."""
    return {name: tool for name, tool in tools.items() if tool.power in powers}


TOOLS: dict[str, Tool] = {
    "find_devices": Tool(
        about="Devices that meet a condition.", arguments=arguments.Where, run=devices.find_devices,
    ),
    "count_devices": Tool(
        about="How many devices meet a condition.", arguments=arguments.Where, run=devices.count_devices,
    ),
    "device": Tool(
        about="State, profile, tags and place of a device.", arguments=arguments.OneDevice, run=devices.device,
    ),
    "twin": Tool(
        about="Where reported state differs from desired, and what the device says about it.",
        arguments=arguments.Twin, run=devices.twin,
    ),
    "last_values": Tool(
        about="The newest samples of a device.", arguments=arguments.Values, run=devices.last_values,
    ),
    "series": Tool(
        about="Mean, lowest, highest and last of a metric over a period.",
        arguments=arguments.Series, run=devices.series,
    ),
    "highest": Tool(
        about="The devices with the highest values of a metric.", arguments=arguments.Highest, run=devices.highest,
    ),
    "alarms": Tool(
        about="Alarms with value, limit and priority.", arguments=arguments.Alarms, run=alarms.alarms,
    ),
    "frequent_alarms": Tool(
        about="The alarms raised most often.", arguments=arguments.Period, run=alarms.frequent_alarms,
    ),
    "incidents": Tool(
        about="Incidents with their diagnosed causes.", arguments=arguments.Incidents, run=alarms.incidents,
    ),
    "incident": Tool(
        about="One incident with diagnosis, alarms and actions.", arguments=arguments.IncidentId, run=alarms.incident,
    ),
    "actions": Tool(
        about="Actions proposed or carried out, and their outcome.", arguments=arguments.Period, run=alarms.actions,
    ),
    "events": Tool(
        about="Log events that a device reported.", arguments=arguments.Period, run=devices.events,
    ),
    "changes": Tool(
        about="Who changed what: the audit trail.", arguments=arguments.Period, run=alarms.changes, power="audit",
    ),
}  # fmt: skip
