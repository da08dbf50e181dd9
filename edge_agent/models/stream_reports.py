"""What a stream says goes out as samples, as an event when its label changes, and as output for machines on site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edge_agent.config import ModelTable
from edge_agent.models.core.gating import StreamResult, output_message, result_samples
from shared.protocol.messages import Event, ModelOutput, Sample


class StreamReports:
    """`deliver` gets samples and events, `output` the message for machines on site."""

    def __init__(
        self, table: ModelTable, deliver: Callable[[list[Any]], None], output: Callable[[ModelOutput], object]
    ) -> None:
        self._table, self._deliver, self._output = table, deliver, output
        self._label = ""

    def report(self, said: StreamResult, labels: Sequence[str]) -> None:
        """Report a result; `labels` are those of the model, in order."""
        name = self._table.name
        items: list[Sample | Event] = [*result_samples(name, said, labels)]
        if self._table.events and said.label != self._label:
            text = f"label {said.label} (was {self._label or 'none'})"
            items.append(Event(t_us=said.t_us, source=name, text=text[:1000], fields={"by": said.by}))
        self._label = said.label
        self._deliver(items)
        if self._table.output:
            self._output(output_message(name, said))
