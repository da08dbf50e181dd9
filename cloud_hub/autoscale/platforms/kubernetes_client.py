"""The connection to the API server of a Kubernetes cluster: options, credentials, limits of an answer.

The credentials come from `token_file`, a kubeconfig, or the service account of the pod. lightkube reads a token file
again when a token is not accepted any more, because Kubernetes rotates it. A proxy of the environment is not used: it
would see the token.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import msgspec
from lightkube import Client, KubeConfig
from lightkube.config.client_adapter import verify_cluster
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import Cluster, User
from lightkube.core.exceptions import ConfigError as KubeConfigError

from cloud_hub.autoscale.platforms.options import PLACE, require_https
from shared.errors import ConfigError

MAX_REPLY = 1 << 20
NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?\Z")
CUSTOM = re.compile(r"(?P<plural>[a-z0-9-]+)\.(?P<group>[a-z0-9.-]+)/(?P<version>v[a-z0-9]+)/(?P<name>[a-z0-9.-]+)\Z")
NO_KEEP_ALIVE = httpx2.Limits(max_keepalive_connections=0)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of `deployment`, `statefulset` and `custom` (plural.group/version/name) in `namespace`.

    Where the API server is: `url` with `token_file` and `ca_file`, or `kubeconfig` with `context`, else the service
    account of the pod. With `ready` the workload itself is read too, for its ready replicas.
    """

    namespace: str
    deployment: str = ""
    statefulset: str = ""
    custom: str = ""
    url: str = ""
    token_file: str = ""
    ca_file: str = ""
    kubeconfig: str = ""
    context: str = ""
    ready: bool = False
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        if sum(map(bool, (self.deployment, self.statefulset, self.custom))) != 1:
            raise ValueError("name one of deployment, statefulset and custom")
        if self.custom and not CUSTOM.match(self.custom):
            raise ValueError(f"custom must be PLURAL.GROUP/VERSION/NAME, not '{self.custom}'")
        if self.url and (self.kubeconfig or not self.token_file):
            raise ValueError("url needs token_file, and no kubeconfig")
        if (self.token_file or self.ca_file) and not self.url:
            raise ValueError("token_file and ca_file belong to url; leave them out with kubeconfig or within a pod")
        if self.url:
            require_https(self.url)
        for name in filter(None, (self.namespace, self.deployment, self.statefulset)):
            if not NAME.match(name):
                raise ValueError(f"'{name}' is no Kubernetes name")
        if not 0 < self.timeout_s <= 60:
            raise ValueError(f"timeout_s must lie between 0 and 60, not {self.timeout_s}")


def open_client(options: Options) -> Client:
    """A client of the cluster, with nothing to close: it opens a connection for each call. Raises ConfigError."""
    config = _config(options)
    try:
        require_https(config.cluster.server)
        if config.cluster.insecure:
            raise ValueError("insecure-skip-tls-verify: the token could go to anybody")
        trust = verify_cluster(config.cluster, config.user or User(), config.abs_file, trust_env=False)
    except (OSError, ssl.SSLError, ValueError, KubeConfigError) as error:
        place = f"{PLACE}.ca_file" if options.url else PLACE
        raise ConfigError(
            place, f"the connection cannot be used: {error}", "Name readable PEM files and https"
        ) from None
    transport = _Bounded(httpx2.HTTPTransport(verify=trust, trust_env=False, limits=NO_KEEP_ALIVE), options.timeout_s)
    timeout = httpx2.Timeout(options.timeout_s)
    return Client(config, timeout=timeout, trust_env=False, transport=transport, field_manager="tidegate")


def _config(options: Options) -> SingleConfig:
    cure = "Give url and token_file, or a kubeconfig with a current context, or run within a pod"
    try:
        if options.url:
            _require_token(options.token_file)
            user = User(token_file=options.token_file)
            cluster = Cluster(server=options.url, certificate_auth=options.ca_file or None)
            config = KubeConfig.from_one(cluster=cluster, user=user).get()
        elif options.kubeconfig:
            config = KubeConfig.from_file(options.kubeconfig).get(options.context or None)
        else:
            config = KubeConfig.from_service_account().get()
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - a kubeconfig is a foreign file: YAML, keys, types may all be wrong
        place = f"{PLACE}.kubeconfig" if options.kubeconfig else PLACE
        raise ConfigError(place, f"no credentials ({type(error).__name__}: {error})", cure) from None
    if config is None or config.user is None:
        raise ConfigError(f"{PLACE}.kubeconfig", "its context has no cluster or no user", cure)
    return config


def _require_token(path: str) -> None:
    place, cure = f"{PLACE}.token_file", "Name a readable file with a service account's token"
    try:
        token = Path(path).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(place, f"'{path}': {error}", cure) from None
    if not token.isprintable() or not token:
        raise ConfigError(place, f"'{path}' holds no token", cure)


DECODED = ("content-encoding", "content-length", "transfer-encoding")


class _Bounded(httpx2.BaseTransport):
    """Reads each response at once, within a size and a time that a slow server cannot stretch."""

    def __init__(self, inner: httpx2.BaseTransport, timeout_s: float) -> None:
        self._inner, self._timeout_s = inner, timeout_s

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The complete response; raises ReadTimeout after twice the timeout at most, or ReadError if it is too long."""
        until = time.monotonic() + self._timeout_s
        response = self._inner.handle_request(request)
        try:
            body = b"".join(_limited(response, until))
        finally:
            response.close()
        headers = [(key, value) for key, value in response.headers.items() if key not in DECODED]
        return httpx2.Response(response.status_code, headers=headers, content=body, request=request)

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


def _limited(response: httpx2.Response, until: float) -> Iterator[bytes]:
    total = 0
    for part in response.iter_bytes():
        total += len(part)
        if total > MAX_REPLY:
            raise httpx2.ReadError(f"the response is longer than {MAX_REPLY} bytes")
        if time.monotonic() > until:
            raise httpx2.ReadTimeout("the response does not end")
        yield part
