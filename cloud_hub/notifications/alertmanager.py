"""Sends pages to a Prometheus Alertmanager (API v2): one alert a page, resent while it is open, ended by `endsAt`.

Source: https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml. Labels
identify an alert: when the severity of a page rises, it becomes a new alert, and the earlier one expires.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import msgspec

from cloud_hub.notifications import Page
from cloud_hub.notifications.core import templates
from cloud_hub.notifications.core.markdown import strip_control
from cloud_hub.notifications.http import Post, response_error
from cloud_hub.security import secret_files
from cloud_hub.settings import channels

MISSED_RESENDS = 4
"""Resends that may fail before an alert expires, as in Prometheus."""


class Alertmanager:
    """Posts alerts, at most 100 a request."""

    most = 100

    def __init__(self, place: str, settings: channels.Alertmanager, hub: str) -> None:
        self._place, self._settings, self._hub = place, settings, hub
        self._post = Post(place, settings)
        self._headers()

    def send(self, pages: Sequence[Page], now_us: int) -> None:
        """See `Sender`."""
        until_us = now_us + int(MISSED_RESENDS * self._settings.resend_s * 1e6)
        alerts = [self._alert(page, until_us) for page in pages]
        status, content = self._post(msgspec.json.encode(alerts), self._headers(), "/api/v2/alerts")
        if status != 200:
            raise response_error(self._place, status, strip_control(content.decode("utf-8", "replace"))[:200])

    def _alert(self, page: Page, until_us: int) -> dict[str, Any]:
        first = page.incidents[0]  # the first one, whatever joins the page: labels identify an alert
        labels = {
            "alertname": "TidegateIncident", "hub": self._hub, "device": first.device, "subject": first.subject,
            "severity": page.highest, "incident": page.id, "site": first.path,
        }  # fmt: skip
        text = "\n".join(
            f"{key}: {strip_control(value)}" for key, value in templates.lines([page], self._settings.language)
        )
        return {
            "labels": {key: strip_control(value) for key, value in labels.items() if value},
            "annotations": {
                "summary": strip_control(templates.title([page], self._settings.language)),
                "description": text,
            },
            "startsAt": _rfc3339(page.opened_us),
            "endsAt": _rfc3339(until_us if page.resolved_us is None else page.resolved_us),
        }

    def _headers(self) -> dict[str, str]:
        settings = self._settings
        if settings.token_file:
            return {"Authorization": f"Bearer {secret_files.read(f'{self._place}.token_file', settings.token_file)}"}
        if settings.user:
            password = secret_files.read(f"{self._place}.password_file", settings.password_file)
            return {"Authorization": "Basic " + base64.b64encode(f"{settings.user}:{password}".encode()).decode()}
        return {}


def _rfc3339(t_us: int) -> str:
    return datetime.fromtimestamp(t_us / 1e6, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
