"""Sends pages to a DingTalk (钉钉) group robot: markdown, at most 20 messages a minute, signed in the URL.

Source: https://open.dingtalk.com/document/robots/custom-robot-access: HMAC-SHA256 with the secret over the time in
milliseconds, a line feed and the secret; base64; valid for an hour.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

import msgspec

from cloud_hub.notifications import Page
from cloud_hub.notifications.core import templates
from cloud_hub.notifications.core.markdown import escape, truncate
from cloud_hub.notifications.http import Post
from cloud_hub.notifications.robots import check_answer
from cloud_hub.security import secret_files
from cloud_hub.settings import channels

MAX_BYTES = 18_000
"""The maximum size of the text; the body may have 20,000 bytes."""
BUSY = {130101: 600.0, 660026: 60.0, 410100: 600.0}
"""Error codes for too many messages, with the wait in seconds: DingTalk blocks a robot for ten minutes."""


class DingTalk:
    """Posts markdown messages of at most 100 pages."""

    most = 100

    def __init__(self, place: str, settings: channels.DingTalk, hub: str) -> None:
        self._place, self._settings, self._hub = place, settings, hub
        self._post = Post(place, settings)
        self._query(0)

    def send(self, pages: Sequence[Page], now_us: int) -> None:
        """See `Sender`."""
        title = escape(templates.title(pages, self._settings.language))
        rows = [f"- {escape(key)}: {escape(value)}" for key, value in templates.lines(pages, self._settings.language)]
        text = truncate("\n".join([f"#### {title}", *rows]), MAX_BYTES)
        body = {"msgtype": "markdown", "markdown": {"title": truncate(title, 120), "text": text}}
        answer = self._post(msgspec.json.encode(body), query=self._query(now_us))
        check_answer(self._place, answer, "errcode", "errmsg", BUSY)

    def _query(self, now_us: int) -> dict[str, str]:
        if not self._settings.secret_file:
            return {}
        secret = secret_files.read(f"{self._place}.secret_file", self._settings.secret_file)
        at_ms = now_us // 1000
        return {"timestamp": str(at_ms), "sign": sign(secret, at_ms)}


def sign(secret: str, at_ms: int) -> str:
    """The signature for this time."""
    return base64.b64encode(hmac.new(secret.encode(), f"{at_ms}\n{secret}".encode(), hashlib.sha256).digest()).decode()
