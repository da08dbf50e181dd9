"""Every table. Times are UTC microseconds. Alembic revisions in `migrations/` make just these; a test compares them."""

from cloud_hub.tables.alarms import AlarmRow, Incident, Notification, Suppression
from cloud_hub.tables.devices import AppliedRow, Device, HighWater, LostRange, Meta, StalledStream, TwinChange, TwinRow
from cloud_hub.tables.runtime import FailedItem
from cloud_hub.tables.telemetry import (
    EscalationRow,
    EventRow,
    KeptFrom,
    PrometheusSeries,
    Rollup,
    RollupDue,
    SketchRow,
    TelemetrySample,
)
from cloud_hub.tables.thresholds import (
    LearnedSeries,
    LearnedState,
    Learning,
    LimitFile,
    PeerState,
    Rollout,
    RolloutDevice,
    Trouble,
)
from cloud_hub.tables.trust import AuditRow, CertificateRow, Claim, Identity, LockoutRow, Token
from cloud_hub.tables.work import Action, Command, Configuration, ConfigurationDevice, Job, JobDevice, ScaleStep

__all__ = [
    "Action",
    "AlarmRow",
    "AppliedRow",
    "AuditRow",
    "CertificateRow",
    "Claim",
    "Command",
    "Configuration",
    "ConfigurationDevice",
    "Device",
    "EscalationRow",
    "EventRow",
    "FailedItem",
    "HighWater",
    "Identity",
    "Incident",
    "Job",
    "JobDevice",
    "KeptFrom",
    "LearnedSeries",
    "LearnedState",
    "Learning",
    "LimitFile",
    "LockoutRow",
    "LostRange",
    "Meta",
    "Notification",
    "PeerState",
    "PrometheusSeries",
    "Rollout",
    "RolloutDevice",
    "Rollup",
    "RollupDue",
    "ScaleStep",
    "SketchRow",
    "StalledStream",
    "Suppression",
    "TelemetrySample",
    "Token",
    "Trouble",
    "TwinChange",
    "TwinRow",
]
