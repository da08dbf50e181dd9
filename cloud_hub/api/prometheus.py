"""/v1/prometheus/write: a receiver of Prometheus remote write 1.0.

Answers as the specification wants them: 204 stored; 400 something in it can never be stored (the rest is); 413 and 415
all of it is refused; 429 and 5xx try again. Of these a sender repeats the last two alone.
Source: https://prometheus.io/docs/specs/prw/remote_write_spec/.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from cloud_hub.api import request_guard
from cloud_hub.api.dependencies import TheHub, Writer
from cloud_hub.clock import now_us
from cloud_hub.errors import HubError
from cloud_hub.prometheus.remote_write import MAX_COMPRESSED, RemoteWriteReceiver

router = APIRouter(prefix="/v1/prometheus", tags=["prometheus"])
request_guard.declare("POST", "/v1/prometheus/write", request_guard.Limit(size=MAX_COMPRESSED, values=None))
PROTO = ("", "prometheus.WriteRequest")


_SERIES = {
    "requestBody": {
        "required": True,
        "content": {"application/x-protobuf": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("/write", status_code=204, response_class=Response, openapi_extra=_SERIES)
async def write(request: Request, hub: TheHub, caller: Writer) -> Response:
    """Samples of series, snappy-compressed protobuf `prometheus.WriteRequest`."""
    _understood(request)
    content = await request.body()

    receiver = RemoteWriteReceiver(hub.db, hub.settings.prometheus.max_series)
    outcome = await run_in_threadpool(receiver.write, content, caller.actor, caller.scope, now_us(), caller.trace)
    if outcome.invalid:
        counts = f"{outcome.invalid} samples refused, {outcome.stored} stored"
        raise HubError(400, "Invalid samples", f"{outcome.reason} ({counts})")
    return Response(status_code=204)


def _understood(request: Request) -> None:
    """Raise HubError 415 for remote write 2.0 and for anything else: the sender then offers 1.0."""
    kind, *parameters = [part.strip() for part in request.headers.get("content-type", "").split(";")]
    proto = next((part[6:] for part in parameters if part.startswith("proto=")), "")
    if kind != "application/x-protobuf" or proto not in PROTO:
        raise HubError(
            415, "Not understood", "send application/x-protobuf of prometheus.WriteRequest (remote write 1.0)"
        )
    if request.headers.get("content-encoding", "") != "snappy":
        raise HubError(415, "Not understood", "send Content-Encoding: snappy (block format)")
