"""Sends pages to a Feishu (飞书) group robot: rich text without markup, at most 20 kB and 100 messages a minute.

Source: https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot: the signature is the HMAC-SHA256 of an
empty message, with the seconds, a line feed and the secret as the key; base64; valid for an hour.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec

from cloud_hub.notifications import Page
from cloud_hub.notifications.core import templates
from cloud_hub.notifications.core.markdown import strip_control, truncate
from cloud_hub.notifications.http import Post
from cloud_hub.notifications.robots import check_answer
from cloud_hub.security import secret_files
from cloud_hub.settings import channels

MAX_LINE = 700
"""Bytes of a line; the 24 lines of a message then stay below 20 kB."""
BUSY = {11232: 60.0, 9499: 60.0}


class Feishu:
    """Posts rich text messages of at most 100 pages."""

    most = 100

    def __init__(self, place: str, settings: channels.Feishu, hub: str) -> None:
        self._place, self._settings, self._hub = place, settings, hub
        self._post = Post(place, settings)
        self._signature(0)

    def send(self, pages: Sequence[Page], now_us: int) -> None:
        """See `Sender`."""
        rows = [f"{key}: {value}" if key else value for key, value in templates.lines(pages, self._settings.language)]
        content = [[{"tag": "text", "text": truncate(strip_control(row), MAX_LINE)}] for row in rows]
        post = {
            "title": truncate(strip_control(templates.title(pages, self._settings.language)), MAX_LINE),
            "content": content,
        }
        body: dict[str, Any] = {"msg_type": "post", "content": {"post": {"zh_cn": post}}}
        answer = self._post(msgspec.json.encode(body | self._signature(now_us)))
        check_answer(self._place, answer, "code", "msg", BUSY)

    def _signature(self, now_us: int) -> dict[str, str]:
        if not self._settings.secret_file:
            return {}
        secret = secret_files.read(f"{self._place}.secret_file", self._settings.secret_file)
        at_s = now_us // 1_000_000
        return {"timestamp": str(at_s), "sign": sign(secret, at_s)}


def sign(secret: str, at_s: int) -> str:
    """The signature for this time."""
    return base64.b64encode(hmac.new(f"{at_s}\n{secret}".encode(), b"", hashlib.sha256).digest()).decode()
