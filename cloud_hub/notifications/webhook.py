"""Posts pages as JSON to any URL.

With a secret, requests are signed; docs/notifications.md shows how to verify the signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from cloud_hub.notifications import Page
from cloud_hub.notifications.core import templates
from cloud_hub.notifications.http import Post, response_error
from cloud_hub.security import secret_files
from cloud_hub.security.core.webhook_signature import SIGNATURE, sign
from cloud_hub.settings import channels

MOST = 100
"""The maximum number of alarms, and of devices, that a request lists for one page."""


class Webhook:
    """Posts requests of at most 100 pages."""

    most = 100

    def __init__(self, place: str, settings: channels.Webhook, hub: str) -> None:
        self._place, self._settings, self._hub = place, settings, hub
        self._post = Post(place, settings)
        self._headers(b"", 0)

    def send(self, pages: Sequence[Page], now_us: int) -> None:
        """See `Sender`."""
        body = {
            "version": 1, "hub": self._hub, "sent_us": now_us, "title": templates.title(pages, self._settings.language),
            "incidents": [_incident(page) for page in pages],
        }  # fmt: skip
        content = msgspec.json.encode(body)
        status, _ = self._post(content, self._headers(content, now_us))
        if not 200 <= status < 300:
            raise response_error(self._place, status)

    def _headers(self, content: bytes, now_us: int) -> dict[str, str]:
        headers = {}
        if self._settings.token_file:
            token = secret_files.read(f"{self._place}.token_file", self._settings.token_file)
            headers["Authorization"] = f"Bearer {token}"
        if self._settings.secret_file:
            secret = secret_files.read(f"{self._place}.secret_file", self._settings.secret_file)
            headers[SIGNATURE] = sign(secret, content, now_us // 1_000_000)
        return headers


def _incident(page: Page) -> dict[str, Any]:
    return {
        "state": "open" if page.open else "resolved", "id": page.id, "message": page.message,
        "device": page.device, "subject": page.subject, "path": page.path, "priority": page.priority,
        "highest_priority": page.highest, "opened_us": page.opened_us, "resolved_us": page.resolved_us,
        "acknowledged": page.acknowledged, "device_count": len(page.devices), "devices": page.devices[:MOST],
        "joined_count": len(page.joined), "joined": page.joined[:MOST], "alarm_count": len(page.alarms),
        "alarms": msgspec.to_builtins(page.alarms[:MOST]), "diagnosis": page.diagnosis,
    }  # fmt: skip
