"""Strict fakes of what alarms leave to: chat robots (200 for everything, the error in the body), Alertmanager's API v2.

Each refuses what the real one refuses: wrong keys and signatures, unknown fields, too large and too many messages.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from simulators.receivers import Answer, Asked, receiver

KEY = "693a91f6-7xxx-4bc4-97a0-0ec2sifa5aaa"
SECRET = "SECthis-is-the-robots-own-secret"


@dataclass
class Robot:
    """What a robot took, when, and what it refused. `down` answers like a proxy without a server behind it."""

    path: str
    judge: Callable[[Robot, Asked, Any], tuple[int, str]]
    answer: Callable[[int, str], dict[str, Any]]
    per_minute: int
    too_many: tuple[int, str]
    clock: Callable[[], float] = time.time
    taken: list[Any] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    down: bool = False

    def __call__(self, asked: Asked) -> Answer:
        if self.down:
            return 502, b"<html>Bad Gateway</html>"
        if (asked.method, asked.path) != ("POST", self.path):
            return 404, b"not found"
        code, text = self._judged(asked)
        return 200, json.dumps(self.answer(code, text), ensure_ascii=False).encode()

    def _judged(self, asked: Asked) -> tuple[int, str]:
        try:
            body = json.loads(asked.body.decode("utf-8", "strict"))
        except ValueError:
            body = None
        code, text = self.judge(self, asked, body)
        now = self.clock()
        if not code and sum(now - 60 < one for one in self.times) >= self.per_minute:
            code, text = self.too_many
        if code:
            self.refused.append(code)
        else:
            self.times.append(now)
            self.taken.append(body)
        return code, text


def _errcode(code: int, text: str) -> dict[str, Any]:
    return {"errcode": code, "errmsg": text}


def _wecom(robot: Robot, asked: Asked, body: Any) -> tuple[int, str]:
    if asked.query != {"key": KEY}:
        return 93000, "invalid webhook url, hint: [1]"
    if not asked.headers.get("content-type", "").startswith("application/json") or not isinstance(body, dict):
        return 47001, "data format error"
    if (
        body.get("msgtype") != "markdown"
        or set(body) != {"msgtype", "markdown"}
        or set(body["markdown"]) != {"content"}
    ):
        return 40008, "invalid message type"
    content = body["markdown"]["content"]
    if not content.strip():
        return 44004, "empty content"
    return (40058, "markdown.content exceed max length 4096") if len(content.encode()) > 4096 else (0, "ok")


def wecom(clock: Callable[[], float] = time.time) -> Robot:
    """20 messages a minute, 4096 bytes."""
    return Robot("/cgi-bin/webhook/send", _wecom, _errcode, 20, (45009, "api freq out of limit"), clock)


def _dingtalk(robot: Robot, asked: Asked, body: Any) -> tuple[int, str]:
    if asked.query.get("access_token") != KEY:
        return 300005, "token is not exist"
    stamp = asked.query.get("timestamp", "")
    right = hmac.new(SECRET.encode(), f"{stamp}\n{SECRET}".encode(), hashlib.sha256).digest()
    late = not re.fullmatch(r"\d{13}", stamp) or abs(robot.clock() * 1000 - int(stamp)) > 3_600_000
    if late or asked.query.get("sign") != base64.b64encode(right).decode():
        return 310000, "sign not match, more: [https://ding-doc.dingtalk.com/doc#/serverapi2/qf2nxq]"
    if not isinstance(body, dict) or body.get("msgtype") != "markdown" or set(body) - {"msgtype", "markdown", "at"}:
        return 400105, "unsupported message type"
    if set(body["markdown"]) != {"title", "text"} or not all(str(one).strip() for one in body["markdown"].values()):
        return 43004, "missing title or text"
    return (460101, "message too long, exceed 20000 bytes") if len(asked.body) > 20_000 else (0, "ok")


def dingtalk(clock: Callable[[], float] = time.time) -> Robot:
    """20 messages a minute, 20,000 bytes, signed in the address."""
    text = "send too fast, exceed 20 times per minute"
    return Robot("/robot/send", _dingtalk, _errcode, 20, (130101, text), clock)


def _feishu(robot: Robot, asked: Asked, body: Any) -> tuple[int, str]:
    if not isinstance(body, dict) or set(body) - {"timestamp", "sign", "msg_type", "content"}:
        return 9499, "Bad Request"
    stamp = body.get("timestamp", "")
    right = hmac.new(f"{stamp}\n{SECRET}".encode(), b"", hashlib.sha256).digest()
    late = not re.fullmatch(r"\d{10}", str(stamp)) or abs(robot.clock() - int(stamp)) > 3600
    if late or body.get("sign") != base64.b64encode(right).decode():
        return 19021, "sign match fail or timestamp is not within one hour from current time"
    if len(asked.body) > 20 * 1024 or body.get("msg_type") != "post":
        return 9499, "Bad Request"
    post = body["content"]["post"]["zh_cn"]
    cells = [cell for line in post["content"] for cell in line]
    good = set(post) == {"title", "content"} and all(set(c) == {"tag", "text"} and c["tag"] == "text" for c in cells)
    return (0, "success") if good and cells else (19002, "params error, missing content")


def feishu(clock: Callable[[], float] = time.time) -> Robot:
    """100 messages a minute, 20 kB, signed in the body."""
    path = f"/open-apis/bot/v2/hook/{KEY}"
    return Robot(path, _feishu, lambda code, text: {"code": code, "msg": text, "data": {}}, 100,
                 (11232, "frequency limited psm[lark.oapi.app_platform_runtime]appID[1500]"), clock)  # fmt: skip


ROBOTS = {"wecom": wecom, "dingtalk": dingtalk, "feishu": feishu}
QUERY = {"wecom": f"?key={KEY}", "dingtalk": f"?access_token={KEY}", "feishu": ""}


@contextmanager
def robot(kind: str, clock: Callable[[], float] = time.time) -> Iterator[tuple[Robot, str]]:
    """A running robot and its whole, secret address."""
    one = ROBOTS[kind](clock)
    with receiver(one) as url:
        yield one, f"{url}{one.path}{QUERY[kind]}"


@dataclass
class StrictAlertmanager:
    """API v2: alerts by their labels, as the real one validates them; one whose `endsAt` has passed is over."""

    alerts: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: int = 0

    def __call__(self, asked: Asked) -> Answer:
        self.requests += 1
        if (asked.method, asked.path) != ("POST", "/api/v2/alerts"):
            return 404, b"{}"
        if asked.headers.get("content-type") != "application/json":
            return 415, b'{"code":415,"message":"unsupported media type"}'
        try:
            for one in json.loads(asked.body):
                self._take(one)
        except (ValueError, KeyError, TypeError) as error:
            return 400, json.dumps(f"bad alert: {error!r}").encode()
        return 200, b""

    def _take(self, one: dict[str, Any]) -> None:
        if set(one) - {"labels", "annotations", "startsAt", "endsAt", "generatorURL"}:
            raise ValueError("unknown field")
        for key, value in one["labels"].items():
            if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", key) or not value or not isinstance(value, str):
                raise ValueError(f"label {key}")
        for key, value in one["annotations"].items():
            if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", key) or not isinstance(value, str):
                raise ValueError(f"annotation {key}")
        starts, ends = (datetime.fromisoformat(one[key].replace("Z", "+00:00")) for key in ("startsAt", "endsAt"))
        if ends < starts:
            raise ValueError("start time must be before end time")
        self.alerts[json.dumps(one["labels"], sort_keys=True)] = one
