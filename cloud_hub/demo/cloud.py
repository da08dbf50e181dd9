"""A strict, simulated Kubernetes API server for the demo and the tests: one Deployment and its scale subresource.

It refuses what a cluster refuses (token, content type, unknown names, bad counts, quota, stale
resourceVersion, too many requests), lets replicas become ready only after a boot delay, and logs every call.
It is no cluster: it starts nothing and listens on 127.0.0.1 only.

Run it: `python -m cloud_hub.demo.cloud --port 8001 --token-file token.txt`; the log is at `GET /log`.
"""

from __future__ import annotations

import argparse
import hmac
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs

from shared.errors import EXIT_CONFIG

Json = dict[str, Any]
MAX_BODY = 1 << 16
Fault = Literal["lose-request", "lose-answer", "fail", "html", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPolicy:
    """The behaviour of the simulated cluster. `maximum` is the quota, `rate` the calls allowed within a second.

    `resource` is the API group, version and plural of the workload `deployment`.
    """

    token: str
    namespace: str = "tidegate"
    deployment: str = "experts"
    resource: str = "apps/v1/deployments"
    replicas: int = 1
    maximum: int = 5
    boot_s: float = 3.0
    rate: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call as answered: `t_s` on the cloud's own clock, `replicas` asked for after it."""

    t_s: float
    method: str
    path: str
    status: int
    replicas: int
    message: str = ""


class _Refused(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass(slots=True, kw_only=True)
class Cloud:
    """The Deployment, its quota and the log. `now_s` is a monotonic clock in seconds that tests may replace.

    `faults` strike the next writes, one each: 'lose-request' and 'lose-answer' close the connection before and
    after the write, 'fail' answers 500. Two strike reads too, after the work is done: 'html' answers with a page of a
    proxy, 'other' with the scale of another workload.
    """

    policy: ClusterPolicy
    now_s: Callable[[], float] = time.monotonic
    log: list[Call] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    _asked: int = field(init=False)
    _ready: int = field(init=False)
    _boots: list[float] = field(default_factory=list, init=False)
    _version: int = field(default=100, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self._asked = self._ready = self.policy.replicas

    @property
    def asked(self) -> int:
        """The desired replicas (spec)."""
        return self._asked

    @property
    def ready(self) -> int:
        """The ready replicas (status)."""
        with self._lock:
            self._settle()
            return self._ready

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Json | str]:
        """Status and body for one request, status 0 for none; every call is logged, refused ones too."""
        with self._lock:
            self._settle()
            strikes = self.faults and (method == "PATCH" or self.faults[0] in ("html", "other"))
            fault = self.faults.pop(0) if strikes else None
            try:
                if fault in ("fail", "lose-request"):
                    raise _Refused(500, "InternalError", "the simulated server fails")
                code, reply = 200, self._serve(method, path, headers, body)
            except _Refused as no:
                code, reply = no.code, _status(no)
            code = 0 if fault in ("lose-request", "lose-answer") else code
            message = str(reply.get("message", ""))
            call = Call(t_s=self.now_s(), method=method, path=path, status=code, replicas=self._asked, message=message)
            self.log.append(call)
            if fault == "other":
                reply["metadata"]["name"] = "another"
            return code, "<html><body>Sign in</body></html>" if fault == "html" else reply

    def resize(self, to: int) -> None:
        """Another writer sets the count."""
        with self._lock:
            self._resize(to)

    def _settle(self) -> None:
        due = [t for t in self._boots if t <= self.now_s()]
        if due:  # a changed status is a changed object, as in a real cluster
            self._boots = self._boots[len(due) :]
            self._ready += len(due)
            self._version += 1

    def _serve(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Json:
        token = headers.get("Authorization", "")
        if not hmac.compare_digest(token.encode(), f"Bearer {self.policy.token}".encode()):
            raise _Refused(401, "Unauthorized", "Unauthorized")
        if sum(call.t_s > self.now_s() - 1 for call in self.log) >= self.policy.rate:
            raise _Refused(429, "TooManyRequests", "the server has received too many requests")
        path, _, query = path.partition("?")
        scales = self._check_path(path)
        dry_run = parse_qs(query).get("dryRun", [])
        if dry_run not in ([], ["All"]):
            raise _Refused(400, "BadRequest", "dryRun: Unsupported value")
        if method == "PATCH" and scales:
            if headers.get("Content-Type", "").partition(";")[0].strip() != "application/merge-patch+json":
                raise _Refused(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
            self._patch(body, dry_run=bool(dry_run))
        elif method != "GET":
            raise _Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        return self._scale() if scales else self._workload()

    def _check_path(self, path: str) -> bool:
        """Whether the path names the scale subresource, not the workload."""
        *resource, plural = self.policy.resource.split("/")
        match path.strip("/").split("/"):
            case ["apis", *kind, "namespaces", namespace, kinds, name] | [
                "apis", *kind, "namespaces", namespace, kinds, name, "scale"
            ] if (kind, kinds) == (resource, plural):  # fmt: skip
                if namespace != self.policy.namespace:
                    raise _Refused(404, "NotFound", f'namespaces "{namespace}" not found')
                if name != self.policy.deployment:
                    raise _Refused(404, "NotFound", f'{plural}.{resource[0]} "{name}" not found')
                return path.endswith("/scale")
            case _:
                raise _Refused(404, "NotFound", "the server could not find the requested resource")

    def _patch(self, body: bytes, *, dry_run: bool) -> None:
        spec, meta = _parts(body)
        version = meta.get("resourceVersion")
        if version is not None and version != str(self._version):
            message = f'Operation cannot be fulfilled on deployments.apps "{self.policy.deployment}": '
            raise _Refused(409, "Conflict", message + "the object has been modified; please apply your changes anew")
        to = spec.get("replicas", self._asked)
        if isinstance(to, bool) or not isinstance(to, int) or to < 0:
            raise _Refused(422, "Invalid", f"spec.replicas: Invalid value: {json.dumps(to)}: must be an integer >= 0")
        if to > self.policy.maximum:
            text = f"exceeded quota: replicas, requested: {to}, used: {self._asked}, limited: {self.policy.maximum}"
            raise _Refused(403, "Forbidden", text)
        if not dry_run:
            self._resize(to)

    def _resize(self, to: int) -> None:
        if to == self._asked:
            return
        self._version += 1
        if to > self._asked:
            self._boots += [self.now_s() + self.policy.boot_s] * (to - self._asked)
        else:  # replicas that are not ready are removed first
            self._boots = self._boots[: max(0, to - self._ready)]
            self._ready = min(self._ready, to)
        self._asked = to

    def _meta(self) -> Json:
        return {
            "name": self.policy.deployment,
            "namespace": self.policy.namespace,
            "resourceVersion": str(self._version),
        }

    def _workload(self) -> Json:
        status = {"replicas": self._asked} | ({"readyReplicas": self._ready} if self._ready else {})
        return {"metadata": self._meta(), "spec": {"replicas": self._asked}, "status": status}

    def _scale(self) -> Json:
        spec = {"replicas": self._asked} if self._asked else {}  # Kubernetes leaves a zero out
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": self._meta(),
            "spec": spec,
            "status": {"replicas": self._ready, "selector": f"app={self.policy.deployment}"},
        }


def _parts(body: bytes) -> tuple[Json, Json]:
    try:
        patch = json.loads(body)
        spec, meta = patch.get("spec", {}), patch.get("metadata", {})
    except (ValueError, AttributeError, RecursionError):
        raise _Refused(400, "BadRequest", "the patch is not a JSON object") from None
    if not isinstance(spec, dict) or not isinstance(meta, dict):
        raise _Refused(422, "Invalid", "spec and metadata must be objects")
    return spec, meta


def _status(no: _Refused) -> Json:
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return body | {"message": str(no), "reason": no.reason, "code": no.code}


class CloudServer:
    """Serves one Cloud on 127.0.0.1 from a thread of its own. Port 0 takes a free one; also a context manager."""

    def __init__(self, cloud: Cloud, port: int = 0) -> None:
        self.cloud = cloud
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _answering(cloud))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> CloudServer:
        """Start serving."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> CloudServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _answering(cloud: Cloud) -> type[BaseHTTPRequestHandler]:
    class Answering(BaseHTTPRequestHandler):
        timeout = 10

        def _reply(self) -> None:
            length = self.headers.get("Content-Length", "0")
            body = self.rfile.read(min(int(length), MAX_BODY)) if length.isdigit() else b""
            if self.command == "GET" and self.path == "/log":
                self._send(200, {"calls": [asdict(call) for call in list(cloud.log)]})
            else:
                self._send(*cloud.answer(self.command, self.path, dict(self.headers.items()), body))

        def _send(self, code: int, body: Json | str) -> None:
            if code == 0:
                return  # HTTP/1.0: the connection closes without an answer
            page = isinstance(body, str)
            payload = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/html" if page else "application/json")
            self.send_header("Content-Length", str(len(payload)))
            if code == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_PATCH = do_PUT = do_POST = do_DELETE = _reply  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            """Log nothing: the cluster has its own log."""

    return Answering


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; prints `{"url": ...}` once it listens. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cloud_hub.demo.cloud", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token-file", type=Path, required=True)
    for name, kind in (("namespace", str), ("deployment", str), ("replicas", int), ("maximum", int)):
        parser.add_argument(f"--{name}", type=kind, default=ClusterPolicy.__dataclass_fields__[name].default)
    parser.add_argument("--boot-s", type=float, default=3.0)
    args = vars(parser.parse_args(argv))
    port, token_file = args.pop("port"), args.pop("token_file")
    try:
        token = token_file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        print(f"--token-file: {error}. Write the token into it first", file=sys.stderr)
        return EXIT_CONFIG
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with CloudServer(Cloud(policy=ClusterPolicy(token=token, **args)), port) as server:
        print(json.dumps({"url": server.url}), flush=True)
        stopped.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
