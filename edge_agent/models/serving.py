"""The model of a stream: which engine serves it, and the change to another bundle while the old one serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import msgspec

from edge_agent.collectors import ModelInput
from edge_agent.models.child import InFlight
from edge_agent.models.engine import Engine, Submitted
from edge_agent.models.pool import EnginePool
from edge_agent.models.wire import ModelSpec
from edge_agent.twin.core.document import Deferred
from shared.errors import ModelError
from shared.models.bundle import read_manifest
from shared.models.gate import Result
from shared.protocol.codec import from_plain


class DesiredModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Desired state of a model: the directory of a bundle, and a variant (empty: by the device profile)."""

    bundle: str
    variant: str = ""


class Owner(Protocol):
    """The stream, as the model calls it."""

    def answered(self, flight: InFlight, result: Result | None, reason: str, run_s: float) -> None:
        """The result of an input."""
        ...

    def model_changed(self) -> None:
        """The state has changed."""
        ...

    def model_event(self, level: str, text: str) -> None:
        """A person should know this."""
        ...

    def retry(self, document: str) -> None:
        """Apply the desired state of this model in `document` again."""
        ...


class _Seat:
    """This stream's place at an engine."""

    def __init__(self, model: ServedModel, engine: Engine) -> None:
        self._model, self.engine = model, engine
        self.number = engine.attach(self)

    def engine_changed(self) -> None:
        self._model.engine_changed()

    def engine_event(self, level: str, text: str) -> None:
        self._model.owner.model_event(level, text)

    def answered(self, flight: InFlight, result: Result | None, reason: str, run_s: float) -> None:
        self._model.owner.answered(flight, result, reason, run_s)

    def leave(self) -> None:
        """Give up the place."""
        self.engine.detach(self.number)


class ServedModel:
    """`use` handles the desired model. The new engine warms up while the old one serves; one that fails is refused."""

    def __init__(self, spec: ModelSpec, pool: EnginePool, owner: Owner) -> None:
        self._own, self._pool, self.owner = spec, pool, owner
        self._seat = _Seat(self, pool.engine(spec))
        self._next: _Seat | None = None
        self._leaving: list[_Seat] = []
        self._refused: dict[ModelSpec, str] = {}
        self._seats_in_flight = 0

    def start(self) -> None:
        """Load the model."""
        self._seat.engine.load()

    def restart(self) -> None:
        """Load the model again."""
        self._seat.engine.restart()

    # -- inputs --------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Number of inputs that wait for their results."""
        return self._seats_in_flight

    def submit(self, item: ModelInput) -> Submitted:
        """Run the model on an input."""
        outcome = self._seat.engine.submit(self._seat.number, item)
        self._seats_in_flight += outcome == "sent"
        return outcome

    def done(self) -> None:
        """An input was answered."""
        self._seats_in_flight -= 1

    def age_s(self, now: float) -> float:
        """Seconds since the last result; 0 while idle."""
        return self._seat.engine.age_s(now)

    def tick(self) -> None:
        """Leave engines that have answered everything; called once a second."""
        for seat in [seat for seat in self._leaving if not seat.engine.in_flight_of(seat.number)]:
            seat.leave()
            self._leaving.remove(seat)

    # -- what it is ----------------------------------------------------------------------------------

    @property
    def rss_mb(self) -> float:
        """Resident memory of the inference process in MB."""
        return self._seat.engine.rss_mb

    @property
    def labels(self) -> list[str]:
        """The labels of the model, in order; empty before it was loaded."""
        ready = self._seat.engine.ready
        return ready.labels if ready else []

    @property
    def values(self) -> list[str]:
        """Names of the numeric values of its results."""
        ready = self._seat.engine.ready
        return ready.values if ready else []

    @property
    def state(self) -> dict[str, Any]:
        """The reported state."""
        state = self._seat.engine.state | {"bundle": self._seat.engine.spec.bundle}
        if self._next is not None:
            state["next"] = {"bundle": self._next.engine.spec.bundle, "state": self._next.engine.state["state"]}
        return state

    # -- another model -------------------------------------------------------------------------------

    def use(self, wanted: Any) -> Any:
        """Change to the desired model; raises Deferred while it is loaded, ValueError when it cannot be used."""
        desired = from_plain(DesiredModel, wanted)
        spec = self._spec(desired)
        if spec == self._seat.engine.spec:
            self._leave_next()
            return wanted
        if spec in self._refused:
            raise ValueError(self._refused.pop(spec))
        if self._next is None or self._next.engine.spec != spec:
            self._leave_next()
            self._next = _Seat(self, self._pool.engine(spec))
            if self._next.engine.state["state"] == "running":
                self._swap()
                return wanted
            self._next.engine.load()
        raise Deferred(f"{desired.bundle} is being loaded, {self._seat.engine.spec.bundle} serves meanwhile")

    def _spec(self, desired: DesiredModel) -> ModelSpec:
        """The spec of a desired model. Its bundle must be beside the configured one: that is the site's decision."""
        bundle = Path(desired.bundle).absolute()  # the inference process works in another folder
        if str(bundle) == self._own.bundle and desired.variant == self._own.variant:
            return self._own
        folder = Path(self._own.bundle).resolve().parent
        if not bundle.resolve().is_relative_to(folder):
            raise ValueError(f"the bundle must be in {folder}, the folder of the configured one")
        try:  # before a process is started for it
            manifest = read_manifest(bundle)
            if desired.variant:
                manifest.variant(desired.variant)
        except ModelError as error:
            raise ValueError(str(error)) from error
        return msgspec.structs.replace(self._own, bundle=str(bundle), variant=desired.variant)

    def engine_changed(self) -> None:
        """The state of the engine, or of the next one, has changed."""
        if self._next is not None:
            state = self._next.engine.state
            if state["state"] == "running":
                self._swap()
                self.owner.retry("models")
            elif state["state"] in {"failed", "waiting"}:
                self._refused[self._next.engine.spec] = str(state.get("reason", ""))[:500]
                self._leave_next()
                self.owner.retry("models")
        self.owner.model_changed()

    def _swap(self) -> None:
        if self._next is not None:
            self._leaving.append(self._seat)
            self._seat, self._next = self._next, None

    def _leave_next(self) -> None:
        if self._next is not None:
            self._next.leave()
            self._next = None
