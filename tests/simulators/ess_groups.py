"""A strict, simulated ESS API (2022-02-22, RPC style, ACS3 signature) with one scaling group."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from simulators.scaling_group import Answer, Group, GroupServer

AUTHORIZATION = re.compile(
    r"ACS3-HMAC-SHA256 Credential=(\w+),SignedHeaders=(?=[^,]*host)(?=[^,]*x-acs-action)[^,]*,Signature=[0-9a-f]{64}"
)


class EssGroups(GroupServer):
    """Knows the group `asg-experts` in `cn-beijing`, and the access key `LTAITIDEGATE`. ClientTokens are kept."""

    def __init__(self) -> None:
        super().__init__(Group(name="asg-experts"))
        self.tokens: dict[str, tuple[int, str]] = {}
        self.changes: dict[str, Any] = {}

    @property
    def endpoint(self) -> str:
        """Host and port."""
        return self.url.partition("://")[2]

    def is_write(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bool:
        """See `GroupServer`."""
        return headers.get("x-acs-action") == "ScaleWithAdjustment"

    def serve(self, method: str, path: str, headers: Mapping[str, str], body: bytes, other: bool) -> Answer:
        """See `GroupServer`."""
        found = AUTHORIZATION.fullmatch(headers.get("authorization", ""))
        if not found or not {"x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256"} <= headers.keys():
            return _error(400, "IncompleteSignature", "The request signature does not conform to standards")
        if found[1] != "LTAITIDEGATE":
            token = headers.get("x-acs-security-token", "")
            return _error(400, "SignatureDoesNotMatch", f"The string to sign is x-acs-security-token:{token}")
        if (method, headers.get("x-acs-version")) != ("POST", "2022-02-22"):
            return _error(400, "InvalidVersion", "The specified version is not valid")
        query = {key: values[0] for key, values in parse_qs(path.partition("?")[2]).items()}
        match headers["x-acs-action"]:
            case "DescribeScalingGroups":
                return self._describe(query, other)
            case "ScaleWithAdjustment":
                return self._scale(query)
        return _error(404, "InvalidAction.NotFound", "Specified api is not found")

    def error(self, fault: str) -> Answer:
        """See `GroupServer`."""
        if fault == "throttle":
            return _error(400, "Throttling.User", "Request was denied due to user flow control")
        if fault == "expired":
            return _error(400, "InvalidSecurityToken.Expired", "Specified SecurityToken is expired")
        return _error(500, "InternalError", "The request processing has failed due to some unknown error")

    def _describe(self, query: Mapping[str, str], other: bool) -> Answer:
        group = self.group
        row = {
            "ScalingGroupId": "asg-another" if other else group.name, "LifecycleState": "Active",
            "DesiredCapacity": group.desired, "TotalCapacity": group.desired, "ActiveCapacity": group.ready,
            "PendingCapacity": group.desired - group.ready, "MinSize": group.minimum, "MaxSize": group.maximum,
        } | self.changes  # fmt: skip
        if query.get("RegionId") != "cn-beijing":
            return _error(404, "InvalidRegionId.NotFound", "The specified region does not exist")
        rows = [row] if query.get("ScalingGroupIds.1") == group.name else []
        return _done({"ScalingGroups": rows, "TotalCount": len(rows), "PageNumber": 1, "PageSize": 10})

    def _scale(self, query: Mapping[str, str]) -> Answer:
        group, text, token = self.group, query.get("AdjustmentValue", ""), query.get("ClientToken", "")
        if query.get("ScalingGroupId") != group.name:
            return _error(404, "InvalidScalingGroupId.NotFound", "The specified scaling group does not exist")
        if query.get("AdjustmentType") != "TotalCapacity" or not text.isdigit() or int(text) > 2000:
            return _error(400, "InvalidParameter", "AdjustmentType or AdjustmentValue is not valid")
        if not 0 < len(token) <= 64 or not token.isascii():
            return _error(400, "InvalidParameter", "ClientToken is not valid")
        if token in self.tokens:
            to, activity = self.tokens[token]
            if to != int(text):
                return _error(400, "IdempotentParameterMismatch", "The token was used with other parameters")
            return _done({"ScalingActivityId": activity})
        if not group.minimum <= int(text) <= group.maximum:
            return _error(400, "IncorrectCapacity.MaxSize", "The capacity is beyond the sizes of the group")
        group.writes += 1
        group.resize(int(text))
        self.tokens[token] = (int(text), f"asa-{len(self.tokens)}")
        return _done({"ScalingActivityId": self.tokens[token][1]})


def _done(body: dict[str, Any]) -> Answer:
    return 200, "application/json", json.dumps({"RequestId": "4711-0815"} | body).encode()


def _error(status: int, code: str, message: str) -> Answer:
    body = {"RequestId": "4711-0815", "HostId": "ess", "Code": code, "Message": message}
    return status, "application/json", json.dumps(body).encode()
