"""Scales an EC2 Auto Scaling group with boto3.

SetDesiredCapacity has no idempotency key and no optimistic lock, so a call whose outcome is unknown is never repeated.
Cooldowns of the group are not honoured: the policy has its own. Credentials come from botocore's default chain
(environment, profile, role of the instance, web identity), or from a named profile.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from cloud_hub.autoscale import Counts, Scaler, ScaleRefused
from cloud_hub.autoscale.platforms.idempotent import IdempotentScaler, OutcomeUnknown, Reading
from cloud_hub.autoscale.platforms.options import PLACE, read_options, require_https
from shared.errors import ConfigError, NotReady

CREDENTIALS = (
    CredentialRetrievalError, NoCredentialsError, PartialCredentialsError, SSOError, TokenRetrievalError,
)  # fmt: skip
NOT_SENT = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError, SSLError)
FOREIGN = "the answer is not from the Auto Scaling API; is a proxy in between?"
BUSY = {"ScalingActivityInProgress", "ResourceContention"}
THROTTLED = {
    "Throttling", "ThrottlingException", "RequestThrottled", "RequestThrottledException", "RequestLimitExceeded",
    "TooManyRequestsException", "SlowDown",
}  # fmt: skip
EXPIRED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
}
WHO_MUST_ACT = {
    "AccessDenied": "not allowed: grant autoscaling:SetDesiredCapacity and autoscaling:DescribeAutoScalingGroups",
    "ValidationError": "the group or the count is not acceptable: correct the group's size or the target's bounds",
    "SignatureDoesNotMatch": "the credentials do not fit: correct the secret key",
}


for _name in ("botocore", "urllib3"):  # they log the session token
    logging.getLogger(_name).setLevel(logging.INFO)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`group` is the name of the Auto Scaling group; `region`, `profile`, `endpoint_url` are as in the AWS CLI."""

    group: str
    region: str = ""
    profile: str = ""
    endpoint_url: str = ""
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < len(self.group) <= 255:
            raise ValueError("group must name an Auto Scaling group")
        if self.endpoint_url:
            require_https(self.endpoint_url)
        if not 0 < self.timeout_s <= 60:
            raise ValueError(f"timeout_s must lie between 0 and 60, not {self.timeout_s}")


def open_scaler(options: dict[str, object]) -> Scaler:
    """Create a scaler for one Auto Scaling group; raises ConfigError."""
    return IdempotentScaler(AwsPlatform(read_options(options, Options, "Give group, and region or a profile")))


class AwsPlatform:
    """One Auto Scaling group."""

    repeatable = False

    def __init__(self, options: Options) -> None:
        self.name = f"aws:{options.group}"
        self._group, self._timeout_s = options.group, options.timeout_s
        self._client = _client(options)

    def read(self) -> Reading:
        """DescribeAutoScalingGroups. Ready are the healthy instances in service."""
        answer = self._call("describe_auto_scaling_groups", NotReady, AutoScalingGroupNames=[self._group])
        groups = answer.get("AutoScalingGroups", [])
        if not groups:
            cure = "the account's operator must create it, or correct group and region"
            raise ScaleRefused(f"{self.name}: there is no such Auto Scaling group: {cure}")
        if [group.get("AutoScalingGroupName") for group in groups] != [self._group]:
            raise NotReady(f"{self.name}: the answer is about another group; nothing was believed", 30.0)
        return Reading(counts=self._counts(groups[0]))

    def write(self, to: int, key: str, seen: Reading) -> None:
        """SetDesiredCapacity."""
        arguments = {"AutoScalingGroupName": self._group, "DesiredCapacity": to, "HonorCooldown": False}
        self._call("set_desired_capacity", OutcomeUnknown, **arguments)

    def rehearse(self, to: int, seen: Reading) -> None:
        """Nothing: this API has no dry run. The limits of the group were checked."""

    def _counts(self, group: dict[str, Any]) -> Counts:
        try:
            ready = sum(
                each["LifecycleState"] == "InService" and each["HealthStatus"] == "Healthy"
                for each in group.get("Instances", [])
            )
            desired, least, most = (int(group[key]) for key in ("DesiredCapacity", "MinSize", "MaxSize"))
        except (LookupError, TypeError, ValueError):
            raise NotReady(
                f"{self.name}: the answer lacks the sizes of the group; nothing was believed", 30.0
            ) from None
        return Counts(desired=desired, ready=ready, minimum=least, maximum=most)

    def _call(self, operation: str, failed: type[NotReady], **arguments: object) -> dict[str, Any]:
        name = self.name
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**arguments)
        except ClientError as error:
            raise self._refusal(error, failed) from None
        except (ResponseParserError, LookupError, TypeError, ValueError, AttributeError):  # HTML, also well-formed
            raise failed(f"{name}: {FOREIGN}", 30.0) from None
        except CREDENTIALS as error:
            cure = "check the profile, the role or the environment of the hub"
            raise NotReady(f"{name}: no credentials ({type(error).__name__}); {cure}", 30.0) from None
        except NOT_SENT as error:
            raise NotReady(f"{name}: cannot be reached ({type(error).__name__})", 5.0) from None
        except BotoCoreError as error:  # read timeouts and broken connections: it may have been carried out
            raise failed(f"{name}: no answer within {self._timeout_s:g} s ({type(error).__name__})", 5.0) from None
        if not answer.get("ResponseMetadata", {}).get("RequestId"):  # a page, taken for an empty answer
            raise failed(f"{name}: {FOREIGN}", 30.0)
        return answer

    def _refusal(self, error: ClientError, failed: type[NotReady]) -> ScaleRefused | NotReady:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in THROTTLED or status == 429:
            return NotReady(f"{self.name}: too many requests ({code}); no action needed", 10.0)
        if code in EXPIRED:
            return NotReady(f"{self.name}: the credentials are not valid any more ({code}); renew them", 30.0)
        if code in BUSY:
            return NotReady(f"{self.name}: another scaling activity is in progress ({code}); no action needed", 10.0)
        if status >= 500:
            return failed(f"{self.name}: the Auto Scaling API fails with {status} ({code})", 10.0)
        known = next((text for start, text in WHO_MUST_ACT.items() if code.startswith(start)), "unexpected answer")
        # the message of a wrong signature holds the session token
        text = "" if code == "SignatureDoesNotMatch" else str(error.response["Error"].get("Message", ""))[:300]
        return ScaleRefused(f"{self.name}: {known} ({code}: {text})")


def _client(options: Options) -> Any:
    config = Config(
        connect_timeout=options.timeout_s, read_timeout=options.timeout_s, retries={"total_max_attempts": 1},
        user_agent_extra="tidegate", parameter_validation=True,
    )  # fmt: skip
    try:
        session = Session(profile_name=options.profile or None, region_name=options.region or None)
        return session.client("autoscaling", endpoint_url=options.endpoint_url or None, config=config)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(PLACE, str(error), "Give a region, a known profile, and a valid endpoint_url") from None
