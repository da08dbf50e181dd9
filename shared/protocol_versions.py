"""Which version of the wire two sides speak with each other. Version N is served with N - 1, by hub and agent.

A birth names the agent's newest version. The hub's session names the one that both speak; the agent uses that one from
there on. Where there is none, `refusal` says who must be updated.
"""

from __future__ import annotations

from shared import PROTOCOL


def agreed(one: int, other: int) -> int | None:
    """The newest version that both speak, or None."""
    lower, higher = sorted((one, other))
    return lower if 1 <= lower >= higher - 1 else None


def refusal(agent: int, hub: int = PROTOCOL) -> str:
    """Why an agent of version `agent` and a hub of version `hub` cannot speak with each other, or ''."""
    if agreed(agent, hub) is not None:
        return ""
    side, cure = ("newer", "update the hub first") if agent > hub else ("older", "update the agent")
    return f"the agent's protocol {agent} is more than one version {side} than the hub's {hub}: {cure}"
