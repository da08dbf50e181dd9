"""The inference processes of an engine: one serves, one may be warming up to replace it, old ones answer their rest."""

from __future__ import annotations

from edge_agent.models.inference_process import InferenceProcess


class EngineProcesses:
    """Which process has which part. It starts none; it ends those that have answered everything."""

    def __init__(self) -> None:
        self.serving: InferenceProcess | None = None
        self.next: InferenceProcess | None = None
        self._retiring: list[InferenceProcess] = []

    @property
    def all(self) -> list[InferenceProcess]:
        """Every process."""
        return [process for process in (self.serving, self.next, *self._retiring) if process is not None]

    @property
    def active(self) -> bool:
        """Whether one serves or warms up."""
        return self.serving is not None or self.next is not None

    @property
    def in_flight(self) -> int:
        """Number of inputs that wait for their results."""
        return sum(len(process.child.in_flight) for process in self.all)

    def in_flight_of(self, number: int) -> int:
        """Number of inputs of a stream that wait for their results."""
        flights = (flight for process in self.all for flight in process.child.in_flight.values())
        return sum(flight.stream == number for flight in flights)

    @property
    def rss_mb(self) -> float:
        """Resident memory of all in MB."""
        return sum(process.child.rss_mb for process in self.all)

    def take_over(self) -> None:
        """The next process serves from now on; the old one only answers what it was given."""
        old, self.serving, self.next = self.serving, self.next, None
        if old is not None:
            self._retiring.append(old)
            self.end_retired()

    def end_retired(self) -> None:
        """End old processes that have answered everything."""
        for process in [process for process in self._retiring if not process.child.in_flight]:
            self._retiring.remove(process)
            process.child.end()

    def forget(self, process: InferenceProcess) -> None:
        """It has ended."""
        self.serving = None if process is self.serving else self.serving
        self.next = None if process is self.next else self.next
        self._retiring = [other for other in self._retiring if other is not process]

    def take_all(self) -> list[InferenceProcess]:
        """Forget every process; returns them."""
        processes, self.serving, self.next, self._retiring = self.all, None, None, []
        return processes
