"""Sends pages to a WeCom (企业微信) group robot: markdown of at most 4096 bytes, at most 20 messages a minute.

Source: https://developer.work.weixin.qq.com/document/path/91770.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cloud_hub.notifications import Page
from cloud_hub.notifications.core import templates
from cloud_hub.notifications.core.markdown import escape, truncate
from cloud_hub.notifications.http import Post
from cloud_hub.notifications.robots import check_answer
from cloud_hub.settings import channels

MAX_BYTES = 4096
BUSY = {45009: 60.0, 45033: 60.0}


class WeCom:
    """Posts markdown messages of at most 100 pages."""

    most = 100

    def __init__(self, place: str, settings: channels.WeCom, hub: str) -> None:
        self._place, self._settings, self._hub = place, settings, hub
        self._post = Post(place, settings)

    def send(self, pages: Sequence[Page], now_us: int) -> None:
        """See `Sender`."""
        body = {"msgtype": "markdown", "markdown": {"content": text(pages, self._settings.language)}}
        check_answer(self._place, self._post(msgspec.json.encode(body)), "errcode", "errmsg", BUSY)


def text(pages: Sequence[Page], language: templates.Language) -> str:
    """The message: a coloured title, and a quoted line for each field."""
    colour = "warning" if any(page.open for page in pages) else "info"
    head = f'<font color="{colour}">{escape(templates.title(pages, language))}</font>'
    rows = [f"> {escape(key)}: {escape(value)}" for key, value in templates.lines(pages, language)]
    return truncate("\n".join([head, *rows]), MAX_BYTES)
