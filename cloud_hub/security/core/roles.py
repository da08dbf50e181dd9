"""Who may do what. A core: roles and their powers, and what is known of who asks.

Duties are separated: who administers tokens and scopes neither operates devices nor reads the audit trail, and nobody
changes that trail. A person or program may hold several roles; then each row of the trail still names it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cloud_hub.errors import HubError

MAY: dict[str, frozenset[str]] = {
    "viewer": frozenset({"read"}),
    "operator": frozenset({"read", "operate"}),
    "auditor": frozenset({"read", "audit"}),
    "admin": frozenset({"read", "administer"}),
    "writer": frozenset({"write"}),
}
"""What each role may do; the table is exhaustive and tested. `admin` is the security administrator, `writer` a program
that sends telemetry and sees nothing.
"""

Scope = tuple[str, ...] | None
"""Asset paths below which devices are seen; None is the whole hub, and () is nothing at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who asks, proven: `roles` with spaces between; `second_factor` is whether a second one was shown."""

    actor: str
    roles: str
    scope: Scope = None
    second_factor: bool = False


def format_roles(names: list[str]) -> str:
    """Several roles as one text, in the order of the table. ValueError names one that there is not."""
    for name in names:
        if name not in MAY:
            raise ValueError(f"'{name[:40]}' is no role: give {', '.join(MAY)}")
    return " ".join(role for role in MAY if role in names)


def require(roles: str, power: str) -> None:
    """Raise HubError 403 unless one of the roles has `power`."""
    if not any(power in MAY.get(role, frozenset()) for role in roles.split()):
        raise HubError(403, "Not allowed", f"role '{roles}' may not {power}")
