"""Scales a Deployment, a StatefulSet or a custom resource of Kubernetes through its scale subresource, with lightkube.

A write carries the resourceVersion that was read, so two writers never overwrite each other.
"""

from __future__ import annotations

from typing import Any

import httpx2
import msgspec
from lightkube.core.exceptions import ApiError
from lightkube.core.exceptions import ConfigError as KubeConfigError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.types import PatchType

from cloud_hub.autoscale import Counts, Scaler, ScaleRefused
from cloud_hub.autoscale.platforms.idempotent import Conflict, IdempotentScaler, OutcomeUnknown, Reading
from cloud_hub.autoscale.platforms.kubernetes_client import CUSTOM, Options, open_client
from cloud_hub.autoscale.platforms.options import read_options
from shared.errors import NotReady

WORKLOADS = {"deployment": ("deployments", "Deployment"), "statefulset": ("statefulsets", "StatefulSet")}


def open_scaler(options: dict[str, object]) -> Scaler:
    """Create a scaler for one workload; raises ConfigError if an option or a file cannot be used."""
    cure = "Give namespace, one workload, and url with token_file, kubeconfig, or neither within a pod"
    return IdempotentScaler(KubernetesPlatform(read_options(options, Options, cure)))


class KubernetesPlatform:
    """The scale subresource of one workload."""

    repeatable = True  # by its resourceVersion

    def __init__(self, options: Options) -> None:
        kind, plural, group, version, workload = _workload(options)
        self.name = f"kubernetes:{options.namespace}/{workload}"
        self._workload, self._namespace = workload, options.namespace
        resource: Any = create_namespaced_resource(group, version, kind, plural)
        self._resource, self._parent = resource.Scale, resource if options.ready else None
        self._custom = bool(options.custom)
        self._client = open_client(options)
        self._timeout_s = options.timeout_s

    def read(self) -> Reading:
        """The replicas asked for; the ready ones only with the option `ready`, because a Scale does not say."""
        seen = self._reading(self._call("get", write=False))
        if self._parent is None:
            return seen
        status = self._call("get", write=False, resource=self._parent).get("status")
        ready = status.get("readyReplicas") if isinstance(status, dict) else None
        if ready is None and not self._custom:
            ready = 0  # Kubernetes leaves a zero out
        good = isinstance(ready, int) and not isinstance(ready, bool) and ready >= 0
        counts = Counts(desired=seen.counts.desired, ready=ready if good else None)
        return Reading(counts=counts, version=seen.version)

    def write(self, to: int, key: str, seen: Reading) -> None:
        """Patch the count, on the resourceVersion that was seen."""
        self._reading(self._call("patch", write=True, obj=_patch(to, seen)))

    def rehearse(self, to: int, seen: Reading) -> None:
        """The same patch with dryRun=All: the API server checks rights, quota and admission."""
        self._call("patch", write=False, obj=_patch(to, seen), dry_run=True)

    def _call(self, method: str, *, write: bool, obj: Any = None, dry_run: bool = False, resource: Any = None) -> Any:
        failed = OutcomeUnknown if write else NotReady
        try:
            if method == "get":
                return self._client.get(resource or self._resource, self._workload, namespace=self._namespace)
            return self._client.patch(
                self._resource, self._workload, obj, namespace=self._namespace, patch_type=PatchType.MERGE,
                dry_run=dry_run,
            )  # fmt: skip
        except ApiError as error:
            raise self._refusal(error.response, error.status.message or "", failed) from None
        except httpx2.HTTPStatusError as error:
            raise self._refusal(error.response, error.response.reason_phrase, failed) from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise NotReady(f"{self.name}: cannot be reached: {error}", 5.0) from None
        except httpx2.TimeoutException:
            raise failed(f"{self.name}: no answer within {self._timeout_s:g} s", 5.0) from None
        except httpx2.HTTPError as error:
            raise failed(f"{self.name}: cannot be reached: {error}", 5.0) from None
        except (KubeConfigError, OSError) as error:  # a token file, which may be being replaced
            raise NotReady(f"{self.name}: the credentials cannot be read: {error}", 5.0) from None
        except (msgspec.MsgspecError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
            # no JSON, or a body of another shape than an API server's
            raise failed(f"{self.name}: the answer is no Scale ({error}); is this a Kubernetes API?", 30.0) from None

    def _reading(self, scale: Any) -> Reading:
        meta = scale.metadata
        if meta is None or not meta.resourceVersion:
            raise NotReady(f"{self.name}: the answer is no Scale; is this a Kubernetes API?", 30.0)
        if (meta.name, meta.namespace) != (self._workload, self._namespace):
            found = f"{meta.namespace}/{meta.name}"
            raise NotReady(f"{self.name}: the answer is about {found}; nothing was believed", 30.0)
        desired = (scale.spec.replicas if scale.spec else None) or 0  # Kubernetes leaves a zero out
        return Reading(counts=Counts(desired=desired), version=meta.resourceVersion)

    def _refusal(self, answer: httpx2.Response, text: str, failed: type[NotReady]) -> ScaleRefused | NotReady:
        status, name, text = answer.status_code, self.name, text[:300]
        if status == 409:
            return Conflict(f"{name}: it changed since it was read ({text})", 0.0)
        if status == 401:  # a token that expired is replaced by the kubelet, or by a person
            cure = "the credentials are not accepted: unless they are renewed by themselves, the operator must do it"
            return NotReady(f"{name}: {cure} ({text})", 30.0)
        if status == 429:
            return NotReady(f"{name}: too many requests; no action needed, retry later ({text})", _wait_s(answer, 5.0))
        if status >= 500:
            return failed(f"{name}: the API server fails with {status} ({text})", _wait_s(answer, 10.0))
        return ScaleRefused(f"{name}: {WHO_MUST_ACT.get(status, f'unexpected answer {status}')} ({text})")


WHO_MUST_ACT = {
    403: "not allowed: the cluster's operator must raise the quota or grant get and patch on the scale subresource",
    404: "there is no such workload: the cluster's operator must create it, or correct its namespace and name",
    422: "the count is not acceptable: correct the target's bounds",
}


def _workload(options: Options) -> tuple[str, str, str, str, str]:
    """Kind, plural, API group, version and name."""
    if found := CUSTOM.match(options.custom):
        return found["plural"], found["plural"], found["group"], found["version"], found["name"]
    chosen = "deployment" if options.deployment else "statefulset"
    plural, kind = WORKLOADS[chosen]
    return kind, plural, "apps", "v1", getattr(options, chosen)


def _patch(to: int, seen: Reading) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": seen.version}, "spec": {"replicas": to}}


def _wait_s(answer: httpx2.Response, otherwise: float) -> float:
    text = answer.headers.get("Retry-After", "")
    return min(float(text), 300.0) if text.isascii() and text.isdigit() else otherwise
