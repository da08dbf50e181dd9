"""Scales an Alibaba Cloud ESS scaling group with Alibaba's SDK.

ScaleWithAdjustment sets the group's expected number of instances. Its ClientToken is made from the key of the decision,
so ESS itself ignores a repeated call. The group must have an expected number: without one, ESS does not say what was
asked for. Credentials come from the SDK's default chain (environment, OIDC role, CLI profile, role of the instance).
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from alibabacloud_credentials.client import Client as Credentials
from alibabacloud_credentials.exceptions import CredentialException
from alibabacloud_ess20220222.client import Client
from alibabacloud_ess20220222.models import DescribeScalingGroupsRequest, ScaleWithAdjustmentRequest
from alibabacloud_tea_openapi.exceptions import AlibabaCloudException
from alibabacloud_tea_openapi.utils_models import Config
from darabonba.exceptions import DaraException, UnretryableException
from darabonba.runtime import RuntimeOptions

from cloud_hub.autoscale import Counts, Scaler, ScaleRefused
from cloud_hub.autoscale.platforms.idempotent import IdempotentScaler, OutcomeUnknown, Reading
from cloud_hub.autoscale.platforms.options import PLACE, read_options, require_https
from shared.errors import ConfigError, NotReady

EXPIRED = ("InvalidSecurityToken", "InvalidAccessKeyId", "Forbidden.AccessKeyDisabled", "InvalidCredentials")
BUSY = ("ScalingActivityInProgress", "IncorrectScalingGroupStatus", "OperationConflict")
MOST = 2000  # of AdjustmentValue with TotalCapacity


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`group` is the scaling group's ID in `region`; `endpoint` (host and port) instead of the region's own."""

    group: str
    region: str
    endpoint: str = ""
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not self.group or not self.region:
            raise ValueError("group and region must be given")
        if self.endpoint:
            require_https(_url(self.endpoint))
        if not 0 < self.timeout_s <= 60:
            raise ValueError(f"timeout_s must lie between 0 and 60, not {self.timeout_s}")


def open_scaler(options: dict[str, object]) -> Scaler:
    """Create a scaler for one scaling group; raises ConfigError."""
    return IdempotentScaler(EssPlatform(read_options(options, Options, "Give group (its ID) and region")))


class EssPlatform:
    """One scaling group."""

    repeatable = True  # by its ClientToken

    def __init__(self, options: Options) -> None:
        self.name = f"ess:{options.group}"
        self._options = options
        self._client = _client(options)
        milliseconds = max(1, round(options.timeout_s * 1000))
        self._runtime = RuntimeOptions(connect_timeout=milliseconds, read_timeout=milliseconds, autoretry=False)

    def read(self) -> Reading:
        """DescribeScalingGroups. Ready are the instances in service."""
        wanted = DescribeScalingGroupsRequest(region_id=self._options.region, scaling_group_ids=[self._options.group])
        groups = self._call(self._client.describe_scaling_groups_with_options, wanted, NotReady).scaling_groups
        if groups == []:
            cure = "the account's operator must create it, or correct group and region"
            raise ScaleRefused(f"{self.name}: there is no such scaling group: {cure}")
        if not groups or [group.scaling_group_id for group in groups] != [self._options.group]:
            raise NotReady(f"{self.name}: the answer is not about this group; nothing was believed", 30.0)
        return Reading(counts=self._counts(groups[0]))

    def write(self, to: int, key: str, seen: Reading) -> None:
        """ScaleWithAdjustment."""
        if to > MOST:
            raise ScaleRefused(f"{self.name}: ESS takes at most {MOST} instances; correct the target's bounds")
        wanted = ScaleWithAdjustmentRequest(
            scaling_group_id=self._options.group, adjustment_type="TotalCapacity", adjustment_value=to,
            client_token=hashlib.sha256(key.encode()).hexdigest(), sync_activity=False,
        )  # fmt: skip
        answer = self._call(self._client.scale_with_adjustment_with_options, wanted, OutcomeUnknown)
        if not answer.request_id:
            raise OutcomeUnknown(f"{self.name}: the answer is not from ESS; is a proxy in between?", 30.0)

    def rehearse(self, to: int, seen: Reading) -> None:
        """Nothing but the limits: a server that does not know ExecutionMode=PlanOnly would carry the call out."""

    def _counts(self, group: Any) -> Counts:
        if group.lifecycle_state != "Active":
            cure = "the account's operator must enable it"
            raise ScaleRefused(f"{self.name}: the group is {group.lifecycle_state}: {cure}")
        if group.desired_capacity is None:
            cure = "set the expected number of instances of the group"
            raise ScaleRefused(f"{self.name}: the group does not say what is asked for: {cure}")
        found = (group.desired_capacity, group.active_capacity, group.min_size, group.max_size)
        if not all(isinstance(count, int) and count >= 0 for count in found):
            raise NotReady(f"{self.name}: the answer lacks the sizes of the group; nothing was believed", 30.0)
        desired, ready, least, most = found
        return Counts(desired=desired, ready=ready, minimum=least, maximum=most)

    def _call(self, operation: Any, wanted: Any, failed: type[NotReady]) -> Any:
        foreign = f"{self.name}: the answer is not from ESS; is a proxy in between?"
        try:
            body = operation(wanted, self._runtime).body
        except AlibabaCloudException as error:
            raise self._refusal(error, failed) from None
        except (UnretryableException, DaraException) as error:
            inner = getattr(error, "inner_exception", error)
            if isinstance(inner, CredentialException):
                raise NotReady(f"{self.name}: no credentials; check the environment or the role", 30.0) from None
            # a timeout, a broken connection, no JSON; its text may show the request
            raise failed(f"{self.name}: no usable answer ({type(inner).__name__})", 5.0) from None
        except (LookupError, TypeError, ValueError, AttributeError):  # JSON of another shape
            raise failed(foreign, 30.0) from None
        if body is None:
            raise failed(foreign, 30.0)
        return body

    def _refusal(self, error: AlibabaCloudException, failed: type[NotReady]) -> ScaleRefused | NotReady:
        code, status = str(error.code or ""), int(error.status_code or 0)
        if code.startswith("Throttling") or status == 429:
            return NotReady(f"{self.name}: too many requests ({code}); no action needed", 10.0)
        if code.startswith(EXPIRED):
            return NotReady(f"{self.name}: the credentials are not valid any more ({code}); renew them", 30.0)
        if code.startswith(BUSY):
            return NotReady(f"{self.name}: another scaling activity is in progress ({code}); no action needed", 10.0)
        if status >= 500 or code in ("", "None"):
            return failed(f"{self.name}: ESS fails with {status} ({code})", 10.0)
        # the message of a wrong signature holds the text that was signed
        text = "" if code.startswith(("SignatureDoesNotMatch", "IncompleteSignature")) else str(error.message)[:300]
        cure = "grant the RAM rights, raise the quota, or correct the target's bounds"
        return ScaleRefused(f"{self.name}: refused ({code}: {text}); {cure}")


def _url(endpoint: str) -> str:
    """The endpoint as a URL; a plain one of this machine (a test's) is http."""
    scheme = "http" if endpoint.startswith(("127.0.0.1", "localhost")) else "https"
    return f"{scheme}://{endpoint}"


def _client(options: Options) -> Client:
    config = Config(region_id=options.region, user_agent="tidegate", credential=Credentials())
    if options.endpoint:
        config.endpoint, config.protocol = options.endpoint, _url(options.endpoint).partition(":")[0]
    try:
        return Client(config)
    except Exception as error:  # noqa: BLE001 - the SDK raises many kinds
        raise ConfigError(PLACE, str(error), "Correct region or endpoint") from None
