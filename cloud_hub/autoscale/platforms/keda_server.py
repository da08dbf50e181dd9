"""KEDA's external scaler: a gRPC server that gives KEDA the counts this hub wants.

KEDA asks for a target by the key `target` of its trigger's metadata. The metric is the wanted count and its target
value 1, so the HPA arrives at the same count. A target without a published count is UNAVAILABLE, so the HPA holds.
One server for each address serves all targets; it runs in an event loop of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from cloud_hub.autoscale.platforms import keda_messages as messages
from cloud_hub.autoscale.published import PUBLISHED, Published
from shared.errors import NotReady

MAX_MESSAGE = 1 << 16
MAX_CALLS = 256
START_S = 10.0
OPTIONS = (
    ("grpc.so_reuseport", 0),  # else a second hub on this machine would get a part of the calls
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; the files are those of mutual TLS (PEM), all empty on loopback without TLS."""

    listen: str
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""


class KedaServer:
    """The gRPC server of one address."""

    def __init__(self, address: Address, published: Published = PUBLISHED) -> None:
        self._address, self._published = address, published
        self._loop = asyncio.new_event_loop()
        self._changed: set[asyncio.Event] = set()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="keda", daemon=True)
        self._started = threading.Event()
        self._error: Exception | None = None
        self.port = 0

    def start(self) -> KedaServer:
        """Listen; raises NotReady if the address or a file cannot be used now."""
        self._thread.start()
        self._started.wait(START_S)
        if self._error is not None or not self.port:
            reason = str(self._error or "it did not start").splitlines()[0]
            raise NotReady(f"keda: cannot listen on {self._address.listen}: {reason}; is another hub running?", 5.0)
        self._published.listen(self._wake)
        return self

    def stop(self) -> None:
        """Stop listening, and end all calls."""
        if self._thread.is_alive():
            self._published.forget(self._wake)
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(START_S)

    @property
    def serving(self) -> bool:
        """Whether it listens."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:  # noqa: BLE001 - given to the caller of start
            self._error = error
        finally:
            self._loop.close()
            self._started.set()

    async def _serve(self) -> None:
        server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        server.add_generic_rpc_handlers((self._handlers(),))
        if self._address.cert_file:
            port = server.add_secure_port(self._address.listen, _credentials(self._address))
        else:
            port = server.add_insecure_port(self._address.listen)
        await server.start()
        self.port = port
        self._started.set()
        await self._stop.wait()
        await server.stop(None)

    def _handlers(self) -> Any:
        def unary(call: Any, wanted: Any, given: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(call, wanted.FromString, given.SerializeToString)

        stream = grpc.unary_stream_rpc_method_handler(
            self._stream_is_active, messages.ScaledObjectRef.FromString, messages.IsActiveResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(messages.SERVICE, {
            "IsActive": unary(self._is_active, messages.ScaledObjectRef, messages.IsActiveResponse),
            "StreamIsActive": stream,
            "GetMetricSpec": unary(self._metric_spec, messages.ScaledObjectRef, messages.GetMetricSpecResponse),
            "GetMetrics": unary(self._metrics, messages.GetMetricsRequest, messages.GetMetricsResponse),
        })  # fmt: skip

    async def _is_active(self, request: Any, context: Any) -> Any:
        _, wanted = await self._wanted(request, context)
        return messages.IsActiveResponse(result=wanted > 0)

    async def _stream_is_active(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The state at once, then each change."""
        changed, last = asyncio.Event(), None
        self._changed.add(changed)
        try:
            while True:
                _, wanted = await self._wanted(request, context)
                if (wanted > 0) is not last:
                    last = wanted > 0
                    yield messages.IsActiveResponse(result=last)
                await changed.wait()
                changed.clear()
        finally:
            self._changed.discard(changed)

    async def _metric_spec(self, request: Any, context: Any) -> Any:
        target = await _target(request, context)
        spec = messages.MetricSpec(metricName=metric_name(target), targetSize=1, targetSizeFloat=1.0)
        return messages.GetMetricSpecResponse(metricSpecs=[spec])

    async def _metrics(self, request: Any, context: Any) -> Any:
        target, wanted = await self._wanted(request.scaledObjectRef, context)
        name = metric_name(target)
        if request.metricName not in ("", name):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the metric of target {target} is {name}")
        value = messages.MetricValue(metricName=name, metricValue=wanted, metricValueFloat=float(wanted))
        return messages.GetMetricsResponse(metricValues=[value])

    async def _wanted(self, reference: Any, context: Any) -> tuple[str, int]:
        target = await _target(reference, context)
        wanted = self._published.get(target)
        if wanted is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"the hub wants nothing for target '{target}' now")
            raise AssertionError  # abort raises
        return target, wanted

    def _wake(self) -> None:
        def wake() -> None:
            for changed in self._changed:
                changed.set()

        self._loop.call_soon_threadsafe(wake)


def metric_name(target: str) -> str:
    """The metric's name at KEDA."""
    return f"tidegate-{target}"


async def _target(reference: Any, context: Any) -> str:
    target: str = reference.scalerMetadata.get("target", "")
    if not target:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "give the target's name as 'target' in the metadata")
    return target


def _credentials(address: Address) -> Any:
    """Mutual TLS. The files are read anew for a connection when they have changed, as after a renewal."""
    files = (address.key_file, address.cert_file, address.client_ca_file)
    last = [_read(files)]

    def configuration() -> Any:
        key, cert, authority = last[0]
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=authority)

    def renewed() -> Any:
        try:
            found = _read(files)
        except OSError:  # being replaced
            return None
        if found == last[0]:
            return None
        last[0] = found
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), renewed, require_client_authentication=True)


def _read(files: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(Path(file).read_bytes() for file in files)


_SERVERS: dict[str, KedaServer] = {}
_LOCK = threading.Lock()


def serve(address: Address) -> KedaServer:
    """The server of this address, started once in the process; raises NotReady."""
    with _LOCK:
        server = _SERVERS.get(address.listen)
        if server is None or not server.serving:
            server = _SERVERS[address.listen] = KedaServer(address).start()
        return server


@atexit.register
def stop_all() -> None:
    """Stop all servers."""
    with _LOCK:
        for server in _SERVERS.values():
            server.stop()
        _SERVERS.clear()
