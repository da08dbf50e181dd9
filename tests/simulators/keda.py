"""KEDA's side of the external scaler protocol: a gRPC client, and the count at which its HPA arrives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from cloud_hub.autoscale.platforms import keda_messages as messages


class Keda:
    """Asks as KEDA does for one ScaledObject."""

    def __init__(self, channel: Any, **metadata: str) -> None:
        self._channel, self._metadata = channel, metadata

    def reference(self) -> Any:
        """The ScaledObject."""
        return messages.ScaledObjectRef(name="experts", namespace="plant", scalerMetadata=self._metadata)

    def is_active(self) -> bool:
        """Whether to scale from zero."""
        return bool(self._call("IsActive", self.reference(), messages.IsActiveResponse).result)

    def activity(self, timeout: float = 10) -> Iterator[bool]:
        """The pushed states."""
        call = self._channel.unary_stream(
            f"/{messages.SERVICE}/StreamIsActive", messages.ScaledObjectRef.SerializeToString,
            messages.IsActiveResponse.FromString,
        )  # fmt: skip
        for response in call(self.reference(), timeout=timeout):
            yield response.result

    def spec(self) -> Any:
        """The only metric's specification."""
        (found,) = self._call("GetMetricSpec", self.reference(), messages.GetMetricSpecResponse).metricSpecs
        return found

    def metric(self, name: str) -> Any:
        """The only value of a metric."""
        request = messages.GetMetricsRequest(scaledObjectRef=self.reference(), metricName=name)
        (found,) = self._call("GetMetrics", request, messages.GetMetricsResponse).metricValues
        return found

    def replicas(self) -> int:
        """What KEDA and its HPA make of the answers, with a metric of type AverageValue."""
        spec = self.spec()
        value = self.metric(spec.metricName)
        assert value.metricName == spec.metricName
        assert (spec.targetSize, value.metricValue) == (spec.targetSizeFloat, value.metricValueFloat)
        return math.ceil(value.metricValueFloat / spec.targetSizeFloat) if self.is_active() else 0

    def _call(self, method: str, request: Any, answer: Any) -> Any:
        call = self._channel.unary_unary(
            f"/{messages.SERVICE}/{method}", type(request).SerializeToString, answer.FromString
        )
        return call(request, timeout=10)


@contextmanager
def keda(address: str, credentials: Any = None, **metadata: str) -> Iterator[Keda]:
    """A connection of KEDA to the scaler."""
    made = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    with made as channel:
        yield Keda(channel, **metadata)
