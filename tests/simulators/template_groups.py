"""A simulated HTTP API of a fleet, strict about its token, types and limits, for scalers by template.

`GET /fleets/experts` reads, `PUT /fleets/experts/size` sets the size, `POST /instances` starts `count` instances more,
`POST /terminations` ends some. An Idempotency-Key is honoured on request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from simulators.scaling_group import Answer, GroupServer

TOKEN = "Bearer very-secret-token-of-the-fleet"


class TemplateGroups(GroupServer):
    """One fleet. `honours_keys`: a repeated Idempotency-Key acts once."""

    def __init__(self, *, honours_keys: bool = False) -> None:
        super().__init__()
        self.honours_keys = honours_keys
        self.keys: list[str] = []
        self.bodies: list[Any] = []

    def is_write(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bool:
        """See `GroupServer`."""
        return method != "GET"

    def serve(self, method: str, path: str, headers: Mapping[str, str], body: bytes, other: bool) -> Answer:
        """See `GroupServer`."""
        if headers.get("authorization") != TOKEN:
            return _json(401, {"error": "unauthorized"})
        match method, path:
            case "GET", "/fleets/experts":
                return self._read(other)
            case ("PUT", "/fleets/experts/size") | ("POST", "/instances" | "/terminations"):
                if headers.get("content-type") != "application/json":
                    return _json(415, {"error": "JSON only"})
                return self._write(path, json.loads(body), headers.get("idempotency-key", ""))
            case "GET", "/moved":
                return 302, "text/html", b""
        return _json(404, {"error": f"nothing at {path}"})

    def error(self, fault: str) -> Answer:
        """See `GroupServer`."""
        status = {"throttle": 429, "expired": 401}.get(fault, 500)
        return _json(status, {"error": fault})

    def _read(self, other: bool) -> Answer:
        group = self.group
        size = {"wanted": group.desired, "running": group.ready}
        limits = {"least": group.minimum, "most": group.maximum}
        return _json(200, {"name": "another" if other else group.name, "size": size, "limits": limits})

    def _write(self, path: str, body: Any, key: str) -> Answer:
        self.bodies.append(body)
        group, count = self.group, body.get("count")
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            return _json(400, {"error": "count must be a number"})
        to = {"/instances": group.desired + count, "/terminations": group.desired - count}.get(path, count)
        if self.honours_keys and (not key or key in self.keys):
            return _json(202 if key else 400, {"accepted": bool(key)})
        if not group.minimum <= to <= group.maximum:
            return _json(403, {"error": "quota"})
        self.keys.append(key)
        group.writes += 1
        group.resize(to)
        return _json(202, {"accepted": True})


def _json(status: int, body: Any) -> Answer:
    return status, "application/json", json.dumps(body).encode()
