"""OpenTelemetry spans. Nothing is recorded unless `configure` was given a collector.

A trace travels as a W3C traceparent: a span begins from that text, and its own is handed on. Without a collector a
span's traceparent is its parent's. Attributes hold no prompts and no answers; where there is a convention of
OpenTelemetry (`gen_ai.*`, `server.address`) it names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Protocol

from cloud_hub.settings import Tracing
from shared.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

Kind = Literal["internal", "client", "consumer", "producer"]
Attributes = Mapping[str, str | int | float | bool]
EXPORT_S = 5.0


class Span(Protocol):
    """A step of a trace. `traceparent` is for what belongs below it."""

    @property
    def traceparent(self) -> str: ...

    def end(self, attributes: Attributes | None = None, *, failure: str = "") -> None:
        """End it, as failed if `failure` says why."""
        ...


class Unrecorded:
    """The span where nothing is recorded."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str = "") -> None:
        self.traceparent = traceparent

    def end(self, attributes: Attributes | None = None, *, failure: str = "") -> None:
        """Nothing."""


_provider: TracerProvider | None = None


def configure(settings: Tracing, instance: str) -> None:
    """Send spans to the collector of the settings, if there is one; raises ConfigError without the extra `otel`."""
    if not settings.endpoint:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased  # noqa: PLC0415
    except ModuleNotFoundError as error:
        cure = "Run: pip install 'tidegate[otel]', or remove the key"
        raise ConfigError("tracing.endpoint", f"'{error.name}' is not installed", cure) from None
    resource = Resource.create({"service.name": "tidegate-hub", "service.instance.id": instance})
    provider = TracerProvider(
        resource=resource, sampler=TraceIdRatioBased(settings.share), shutdown_on_exit=False
    )  # fmt: skip
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.endpoint, timeout=EXPORT_S)))
    use(provider)


def use(provider: TracerProvider | None) -> None:
    """Record with this provider."""
    global _provider  # noqa: PLW0603 - spans begin everywhere, as log lines do
    _provider = provider


def shutdown() -> None:
    """Send what is left, and record no more."""
    provider = _provider
    use(None)
    if provider is not None:
        provider.shutdown()


def start(name: str, parent: str, attributes: Attributes | None = None, *, kind: Kind = "internal") -> Span:
    """Begin a span below `parent`, a traceparent; '' begins a new trace. The caller ends it."""
    return Unrecorded(parent) if _provider is None else _Recorded(_provider, name, parent, attributes or {}, kind)


@contextmanager
def span(
    name: str, parent: str, attributes: Attributes | None = None, *, kind: Kind = "internal"
) -> Iterator[Span]:  # fmt: skip
    """A span around a block. It has failed if the block raises."""
    started = start(name, parent, attributes, kind=kind)
    try:
        yield started
    except BaseException as error:
        started.end(failure=type(error).__name__)
        raise
    started.end()


class _Recorded:
    """A span of OpenTelemetry."""

    def __init__(
        self, provider: TracerProvider, name: str, parent: str, attributes: Attributes, kind: Kind
    ) -> None:  # fmt: skip
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.trace import SpanKind  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        above = TraceContextTextMapPropagator().extract({"traceparent": parent}, Context())
        self._span: OtelSpan = provider.get_tracer("tidegate").start_span(
            name, above, SpanKind[kind.upper()], dict(attributes)
        )

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self, attributes: Attributes | None = None, *, failure: str = "") -> None:
        """End it; see `Span`."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415

        self._span.set_attributes(dict(attributes or {}))
        if failure:
            self._span.set_status(StatusCode.ERROR, failure)
        self._span.end()
