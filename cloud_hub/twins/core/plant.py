"""The twin document whose desired leaves are writes to plant equipment. Only a person sets them.

Actions, playbooks, jobs, configurations and language models may not: they are refused where they are proposed, and the
Sparkplug host refuses a leaf with such an owner once more.
"""

from __future__ import annotations

DOCUMENT = "sparkplug"
REASON = f"the document '{DOCUMENT}' writes to plant equipment, which only a person does: tidegate-hub sparkplug write"


def refuse(document: str) -> None:
    """Raise ValueError if nothing but a person may change this document."""
    if document == DOCUMENT:
        raise ValueError(REASON)
