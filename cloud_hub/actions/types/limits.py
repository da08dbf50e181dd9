"""`limits`: sets or removes limits of one device. The device must acknowledge them; the undo restores them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from sqlmodel import Session

from cloud_hub.actions.catalogue import Inverse, Parameters, Progress, Request
from cloud_hub.actions.core.policy import Risk
from cloud_hub.actions.types.twin import TwinAction, desired_of
from cloud_hub.runtime.outgoing import OutgoingMessage
from cloud_hub.thresholds.limits import files as limit_files
from cloud_hub.thresholds.limits import standing
from cloud_hub.thresholds.limits.core.entries import merged
from cloud_hub.twins import service as twins
from shared.protocol.codec import from_plain, plain
from shared.thresholds import Limits

DOCUMENT = "thresholds"
Entries = list[dict[str, Any]]


class LimitParameters(Parameters, frozen=True):
    """Limits as in `desired.limits`, and metrics whose limits are removed."""

    set: Annotated[Entries, msgspec.Meta(max_length=1000)] = msgspec.field(default_factory=list)
    remove: Annotated[list[str], msgspec.Meta(max_length=1000)] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.set and not self.remove:
            raise ValueError("set or remove limits of at least one metric")
        for row in self.set:
            from_plain(Limits, row)


class LimitsAction(TwinAction):
    """Changes the desired limits; those of other metrics stay."""

    name = "limits"
    schema: type[Parameters] = LimitParameters

    def risk(self, parameters: Any) -> Risk:
        """A removed limit raises no alarm any more."""
        return "high" if parameters.remove else "medium"

    def details(self, parameters: Any) -> tuple[str, ...]:
        """`remove/<metric>` and `set/<metric>`, removals first."""
        return (*(f"remove/{metric}" for metric in parameters.remove), *(f"set/{m}" for m in _metrics(parameters)))

    def snapshot(self, session: Session, request: Request) -> dict[str, Any]:
        """The entries of the metrics before, as an action that sets them back."""
        parameters = request.parameters
        metrics = {*_metrics(parameters), *parameters.remove}
        old = {row["metric"]: row for row in _current(session, request.device)}
        return {"set": [old[m] for m in sorted(metrics & old.keys())], "remove": sorted(metrics - old.keys())}

    def change(self, session: Session, request: Request) -> tuple[str, dict[str, Any]]:
        """The whole new set; the device takes sets, not entries."""
        gone, wanted = set(request.parameters.remove), request.parameters.set
        entries = [row for row in merged(_current(session, request.device), wanted) if row["metric"] not in gone]
        return DOCUMENT, {"limits": entries}

    def write(
        self, session: Session, request: Request, document: str, patch: dict[str, Any], now_us: int
    ) -> list[OutgoingMessage]:
        """Store a large set as a file."""
        value = limit_files.desired_value(session, request.device, patch["limits"], now_us)
        return super().write(session, request, document, {"limits": value}, now_us)

    def verify(self, session: Session, request: Request, now_us: int) -> Progress:
        """The device acknowledges the version that was written, or a later one."""
        for row in twins.progress(session, request.device):
            if row.shadow == DOCUMENT and row.path == "limits" and row.version >= request.effect["version"]:
                if row.state == "refused":
                    return Progress(state="failed", reason=f"the device refused it: {row.reason}")
                if row.state == "verified":
                    return Progress(state="done", reason="the device has it in force")
        return self.within(self._verify_s, request, now_us)

    def undo(self, session: Session, request: Request) -> Inverse | str:
        """Set back, unless somebody else changed these limits since."""
        now = {row["metric"]: row for row in _current(session, request.device)}
        wanted = {row["metric"]: row for row in request.parameters.set}
        if any(now.get(metric) != row for metric, row in wanted.items()) or now.keys() & set(request.parameters.remove):
            return "somebody changed these limits since: look at the twin's history"
        return Inverse(type="limits", parameters=dict(request.before))


def _metrics(parameters: LimitParameters) -> list[str]:
    return [str(row["metric"]) for row in parameters.set]


def _current(session: Session, device: str) -> Entries:
    if "limits" in desired_of(session, device, DOCUMENT):
        return standing.desired(session, device)
    return [plain(limits) for _, limits in sorted(standing.present(session, [device]).items())]
