"""Negotiates the version of the wire protocol. Hub and agent support their own version N and N - 1.

A birth contains the agent's newest version. The hub's session contains the version that both support, which the agent
then uses. If there is none, `refusal` returns which side must be updated.
"""

from __future__ import annotations

from shared import PROTOCOL


def agreed(first: int, second: int) -> int | None:
    """The newest version that both sides support, or None."""
    lower, higher = sorted((first, second))
    return lower if 1 <= lower >= higher - 1 else None


def refusal(agent: int, hub: int = PROTOCOL) -> str:
    """Why an agent of version `agent` and a hub of version `hub` are incompatible, or ''."""
    if agreed(agent, hub) is not None:
        return ""
    side, cure = ("newer", "update the hub first") if agent > hub else ("older", "update the agent")
    return f"the agent's protocol {agent} is more than one version {side} than the hub's {hub}: {cure}"
