"""Defines roles and their permissions, and the identity of a caller.

Duties are separated: the role that administers tokens and scopes neither operates devices nor reads the audit trail,
and no role changes the trail. A caller may hold several roles.
"""

from __future__ import annotations

from dataclasses import dataclass

from cloud_hub.errors import HubError

MAY: dict[str, frozenset[str]] = {
    "viewer": frozenset({"read"}),
    "operator": frozenset({"read", "operate", "infer"}),
    "auditor": frozenset({"read", "audit"}),
    "admin": frozenset({"read", "administer"}),
    "writer": frozenset({"write"}),
    "inference": frozenset({"infer"}),
}
"""What each role may do; the table is exhaustive and tested. `admin` is the security administrator, `writer` a program
that sends telemetry and sees nothing, `inference` a program that asks language models and sees nothing else.
"""

Scope = tuple[str, ...] | None
"""Asset paths whose devices are visible; None is all devices, () none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An authenticated caller. `roles` are separated by spaces; `second_factor` is whether one was used."""

    actor: str
    roles: str
    scope: Scope = None
    second_factor: bool = False


def format_roles(names: list[str]) -> str:
    """Roles as one text, in the order of MAY. ValueError names an unknown role."""
    for name in names:
        if name not in MAY:
            raise ValueError(f"'{name[:40]}' is no role: give {', '.join(MAY)}")
    return " ".join(role for role in MAY if role in names)


def require(roles: str, power: str) -> None:
    """Raise HubError 403 unless one of the roles has `power`."""
    if not any(power in MAY.get(role, frozenset()) for role in roles.split()):
        raise HubError(403, "Not allowed", f"role '{roles}' may not {power}")
