"""A strict, simulated EC2 Auto Scaling API (query protocol). Stricter than moto: it enforces the group's sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from simulators.scaling_group import Answer, Group, GroupServer

NAMESPACE = "http://autoscaling.amazonaws.com/doc/2011-01-01/"
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(\w+)/\d{8}/[a-z0-9-]+/autoscaling/aws4_request, SignedHeaders=[^ ]*host[^ ]*, "
    r"Signature=[0-9a-f]{64}"
)


class AwsGroups(GroupServer):
    """Knows one group, and the access key `AKIATIDEGATE`."""

    def is_write(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bool:
        """See `GroupServer`."""
        return b"Action=SetDesiredCapacity" in body

    def serve(self, method: str, path: str, headers: Mapping[str, str], body: bytes, other: bool) -> Answer:
        """See `GroupServer`."""
        found = AUTHORIZATION.fullmatch(headers.get("authorization", ""))
        if not found or "x-amz-date" not in headers:
            return _error(403, "MissingAuthenticationToken", "Request is missing Authentication Token")
        if found[1] != "AKIATIDEGATE":
            token = headers.get("x-amz-security-token", "")
            text = f"The signature does not match. The canonical string is ... x-amz-security-token:{token}"
            return _error(403, "SignatureDoesNotMatch", text)
        form = {key: values[0] for key, values in parse_qs(body.decode(), keep_blank_values=True).items()}
        if (method, path, form.get("Version")) != ("POST", "/", "2011-01-01"):
            return _error(400, "InvalidAction", "The action or operation requested is invalid.")
        match form["Action"]:
            case "DescribeAutoScalingGroups":
                return self._describe(form, other)
            case "SetDesiredCapacity":
                return self._set(form)
        return _error(403, "AccessDenied", f"User is not authorized to perform autoscaling:{form['Action']}")

    def error(self, fault: str) -> Answer:
        """See `GroupServer`."""
        if fault == "throttle":
            return _error(400, "Throttling", "Rate exceeded")
        if fault == "expired":
            return _error(403, "ExpiredToken", "The security token included in the request is expired")
        return _error(500, "InternalFailure", "The request processing has failed")

    def _describe(self, form: Mapping[str, str], other: bool) -> Answer:
        names = [value for key, value in form.items() if key.startswith("AutoScalingGroupNames.member.")]
        group = self.group
        body = self._group(group, "another" if other else group.name) if group.name in names else ""
        return _done("DescribeAutoScalingGroups", f"<AutoScalingGroups>{body}</AutoScalingGroups>")

    def _group(self, group: Group, name: str) -> str:
        ready = group.ready
        members = "".join(
            f"<member><InstanceId>i-{i:017x}</InstanceId><AvailabilityZone>zone-a</AvailabilityZone>"
            f"<LifecycleState>{'InService' if i < ready else 'Pending'}</LifecycleState>"
            "<HealthStatus>Healthy</HealthStatus><ProtectedFromScaleIn>false</ProtectedFromScaleIn></member>"
            for i in range(group.desired)
        )
        return (
            f"<member><AutoScalingGroupName>{name}</AutoScalingGroupName><MinSize>{group.minimum}</MinSize>"
            f"<MaxSize>{group.maximum}</MaxSize><DesiredCapacity>{group.desired}</DesiredCapacity>"
            "<DefaultCooldown>300</DefaultCooldown><HealthCheckType>EC2</HealthCheckType>"
            f"<Instances>{members}</Instances></member>"
        )

    def _set(self, form: Mapping[str, str]) -> Answer:
        group, text = self.group, form.get("DesiredCapacity", "")
        if form.get("AutoScalingGroupName") != group.name:
            return _error(400, "ValidationError", "AutoScalingGroup name not found - null")
        if form.get("HonorCooldown") != "false":
            return _error(400, "ScalingActivityInProgress", "The group is in its cooldown")
        if not text.isdigit() or not group.minimum <= int(text) <= group.maximum:
            bounds = f"New SetDesiredCapacity value {text} is beyond {group.minimum}..{group.maximum} for the group"
            return _error(400, "ValidationError", bounds)
        group.writes += 1
        group.resize(int(text))
        return _done("SetDesiredCapacity", "")


def _done(action: str, result: str) -> Answer:
    inner = f"<{action}Result>{result}</{action}Result>" if result else ""
    body = f'<{action}Response xmlns="{NAMESPACE}">{inner}{_metadata()}</{action}Response>'
    return 200, "text/xml", body.encode()


def _error(status: int, code: str, message: str) -> Answer:
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    return status, "text/xml", f'<ErrorResponse xmlns="{NAMESPACE}">{error}{_metadata()}</ErrorResponse>'.encode()


def _metadata() -> str:
    return "<ResponseMetadata><RequestId>4711</RequestId></ResponseMetadata>"
