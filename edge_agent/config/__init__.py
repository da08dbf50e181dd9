"""Reads the agent's configuration from a TOML file into frozen structs that reject unknown keys.

Precedence: defaults < device profile < this file < desired state (only `[settings]`).
Names contain the unit. Secrets are given as file paths, never in the TOML file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edge_agent.config.sparkplug import Sparkplug, within
from shared import device_profile
from shared.device_profile import DeviceProfile
from shared.errors import ConfigError
from shared.ids import device_id, first_duplicate, metric_name
from shared.suggestions import explained
from shared.thresholds import AlarmRules, Limits


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table."""


class Device(_Table, frozen=True):
    """Identity of the device. `asset_path` is enterprise/site/area/line/cell (ISA-95)."""

    id: str
    profile: str
    state_dir: str
    asset_path: str = ""

    def __post_init__(self) -> None:
        device_id(self.id)


class LinkTls(_Table, frozen=True):
    """Paths of PEM files for mutual TLS 1.3."""

    ca: str
    certificate: str
    key: str


class Link(_Table, frozen=True):
    """Address of the broker: `address`, else the first of `fallback` at which a hub answers, else, with `discover`,
    a broker announced by zeroconf and authenticated by TLS.

    `hub` is the only hub whose announcements are accepted; any hub if empty. `rest` is the URL of the hub's REST API,
    for content that is too large for a twin; an enrolled device knows it.
    """

    discover: bool = True
    interfaces: list[str] = []
    hub: str = ""
    address: str = ""
    tls: LinkTls | None = None
    resend_s: float = 5.0
    replay_kb_s: float = 2000.0
    heartbeat_s: float = 30.0
    fallback: list[str] = []
    rest: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.replay_kb_s <= 1e6:
            raise ValueError("replay_kb_s must be within 1..1000000")
        if not 1 <= self.heartbeat_s <= 3600:
            raise ValueError("heartbeat_s must be within 1..3600")
        if not 0.1 <= self.resend_s <= 3600:
            raise ValueError("resend_s must be within 0.1..3600")


class OutboxLimits(_Table, frozen=True):
    """The outbox on disk: never larger than `max_mb`; samples are committed after at most `commit_s`.

    Telemetry and events older than `telemetry_keep_s` and `event_keep_s` are deleted unsent; 0 keeps them.
    """

    max_mb: float = 256.0
    commit_s: float = 1.0
    telemetry_keep_s: float = 0.0
    event_keep_s: float = 0.0

    def __post_init__(self) -> None:
        if not all(keep_s == 0 or 60 <= keep_s <= 1e9 for keep_s in (self.telemetry_keep_s, self.event_keep_s)):
            raise ValueError("telemetry_keep_s and event_keep_s must be 0 or within 60..1000000000")
        if not 1 <= self.max_mb <= 1e6 or not 0.01 <= self.commit_s <= 60:
            raise ValueError("max_mb must be within 1..1000000 and commit_s within 0.01..60")


class Settings(_Table, frozen=True):
    """Settings that the hub may change by desired state `settings`."""

    period_s: float = 1.0
    log_level: str = "info"

    def __post_init__(self) -> None:
        if not 0.1 <= self.period_s <= 3600:
            raise ValueError("period_s must be within 0.1..3600")
        if self.log_level not in {"debug", "info", "warning", "error"}:
            raise ValueError("log_level must be one of debug, info, warning, error")


class HardSettings(_Table, frozen=True):
    """The site's bounds of `settings`: neither the hub nor `tidegate-edge twin set` can exceed them."""

    period_s_min: float = 0.1
    period_s_max: float = 3600.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.period_s_min <= self.period_s_max <= 3600:
            raise ValueError("period_s_min and period_s_max must be in this order within 0.1..3600")

    def refusal(self, wanted: Settings) -> str:
        """Why these settings exceed the site's bounds, or ''."""
        if self.period_s_min <= wanted.period_s <= self.period_s_max:
            return ""
        allowed = f"{self.period_s_min:g}..{self.period_s_max:g}"
        return f"period_s {wanted.period_s:g} is beyond the site's hard bounds {allowed}"


class CollectorTable(_Table, frozen=True):
    """A `[[collectors]]` table: `kind` is the plug-in, which reads `options` with its own struct."""

    kind: str
    name: str
    period_s: float | None
    options: dict[str, Any]


class ModelTable(_Table, frozen=True):
    """A stream of results: the model in directory `bundle` on the frames of `frames`, a collector or another model
    whose boxes are cut out. Models of the same bundle and options share an inference process.

    `variant` and `providers` are those of the device profile if empty, `batch` if 0. `roi` is the part of the frame
    that the model sees: x, y, w, h as shares of it. `memory_mb` is what its process may use; 0: no limit.

    An escalation waits `deadline_s` for the hub's expert, whose answer then is the result. Without one in time
    `fallback` holds: the edge model's result, or the label `unknown`. With 0 an escalated frame gives no result.
    """

    name: str
    bundle: str
    frames: str
    variant: str = ""
    providers: list[str] = []
    batch: int = 0
    max_wait_ms: float = 2.0
    max_fps: float = 0.0
    memory_mb: float = 0.0
    deadline_s: float = 0.0
    fallback: Literal["edge", "unknown"] = "unknown"
    roi: list[float] = []
    output: bool = False
    events: bool = False
    watchdog_s: float = 30.0
    load_s: float = 120.0

    def __post_init__(self) -> None:
        metric_name(self.name)  # its samples are <name>/score and so on
        within("watchdog_s", self.watchdog_s, 0.1, 3600)
        within("load_s", self.load_s, 1, 86400)
        within("batch", self.batch, 0, 1024)
        within("max_wait_ms", self.max_wait_ms, 0, 10000)
        within("max_fps", self.max_fps, 0, 1000)
        within("memory_mb", self.memory_mb, 0, 1e6)
        within("deadline_s", self.deadline_s, 0, 3600)
        if self.roi:
            _check_roi(self.roi)


def _check_roi(roi: list[float]) -> None:
    if len(roi) != 4 or not all(0 <= side <= 1 for side in roi):
        raise ValueError("roi must be four shares in 0..1: x, y, w, h")
    x, y, w, h = roi
    if w == 0 or h == 0 or x + w > 1 or y + h > 1:
        raise ValueError("roi must have a width and a height, and lie within the frame")


class Inference(_Table, frozen=True):
    """What all models share. `memory_mb` is the budget of their processes, that of the device profile if 0: the model
    used the longest ago is unloaded. `threads` are CPU threads of one call.

    `cache_dir` is for engines built on this device, `state_dir`/engines if empty. `libraries` are plug-in providers of
    ONNX Runtime: name and shared library. A build of an engine that takes longer than `build_s` is killed.
    """

    memory_mb: float = 0.0
    threads: int = 1
    cache_dir: str = ""
    libraries: dict[str, str] = {}
    version_compatible: bool = False
    build_s: float = 3600.0

    def __post_init__(self) -> None:
        within("build_s", self.build_s, 1, 86400)
        within("memory_mb", self.memory_mb, 0, 1e6)
        within("threads", self.threads, 1, 256)


ScriptName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\Z")]


class Config(_Table, frozen=True):
    """The configuration file. `limits`, `alarm_rules` and `settings` are in force until the hub sends desired state.

    `hard_limits` and `hard_settings` bound the desired state. `hard_limits` and `hard_alarm_rules` are always
    evaluated. `scripts` are executable files by name that the hub may run, no others.
    """

    device: Device
    link: Link = Link()
    outbox: OutboxLimits = OutboxLimits()
    settings: Settings = Settings()
    hard_settings: HardSettings = HardSettings()
    collectors: list[CollectorTable] = []
    inference: Inference = Inference()
    models: list[ModelTable] = []
    limits: list[Limits] = []
    hard_limits: list[Limits] = []
    alarm_rules: AlarmRules = AlarmRules()
    hard_alarm_rules: AlarmRules = AlarmRules()
    scripts: dict[ScriptName, str] = {}
    sparkplug: Sparkplug | None = None


class _Head(msgspec.Struct, frozen=True):
    device: Device


class _Raw(Config, frozen=True):
    collectors: list[dict[str, Any]] = []  # type: ignore[assignment]


def _collector(table: dict[str, Any], place: str) -> CollectorTable:
    options = dict(table)
    kind, period = options.pop("kind", None), options.pop("period_s", None)
    name = options.pop("name", kind)
    if not isinstance(kind, str) or not isinstance(name, str):
        raise ConfigError(place, "a collector needs a text `kind`", 'Write for example: kind = "host"')
    number = isinstance(period, (int, float)) and not isinstance(period, bool)
    if period is not None and not (number and 0.01 <= period <= 86400):
        raise ConfigError(f"{place}.period_s", "must be a number within 0.01..86400", "It is in seconds")
    return CollectorTable(kind=kind, name=name, period_s=period, options=options)


def _merge_tables(defaults: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """`defaults` overridden by `chosen`, table by table."""
    result = dict(defaults)
    for key, value in chosen.items():
        old = result.get(key)
        result[key] = _merge_tables(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _no_twins(names: list[str], place: str) -> None:
    if (twice := first_duplicate(names)) is not None:
        raise ConfigError(place, f"'{twice}' is there twice", 'Give each its own: name = "..."')


def _check_frames(models: list[ModelTable], collectors: set[str], place: str) -> None:
    """Each model's frames must lead to a collector, over at most all other models."""
    sources = {model.name: model.frames for model in models}
    for model in models:
        source, steps = model.frames, 0
        while source in sources and source not in collectors and steps < len(models):
            source, steps = sources[source], steps + 1
        if source not in collectors:
            reason = f"no collector is named '{model.frames}'" if not steps else "its chain of models has no collector"
            cure = "Set `frames` to a collector, or to a model that finds boxes"
            raise ConfigError(f"{place}: models '{model.name}'", reason, cure)


def parse(text: str, place: str = "configuration") -> tuple[Config, DeviceProfile]:
    """Parse a configuration and load its device profile; raises ConfigError with the place and the cure."""
    try:
        table = msgspec.toml.decode(text.encode())
        chosen = device_profile.load(msgspec.convert(table, _Head).device.profile)
        raw = msgspec.convert(_merge_tables(chosen.settings, table), _Raw)
    except msgspec.MsgspecError as error:
        cure = "Every key is listed in docs/configuration.md"
        raise ConfigError(place, explained(error, _Raw), cure) from error
    collectors = [_collector(row, f"{place}: collectors[{i}]") for i, row in enumerate(raw.collectors)]
    _no_twins([c.name for c in collectors], f"{place}: collectors")
    _no_twins([m.name for m in raw.models], f"{place}: models")
    _check_frames(raw.models, {c.name for c in collectors}, place)
    fields = {name: getattr(raw, name) for name in raw.__struct_fields__}
    return Config(**(fields | {"collectors": collectors})), chosen


def read(path: Path) -> tuple[Config, DeviceProfile]:
    """Read the file at `path`; raises ConfigError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read ({error})", "Give the file with --config FILE") from error
    return parse(text, str(path))


def options(kind: type[Any], table: CollectorTable) -> Any:
    """A plug-in's options from its table; raises ConfigError with the collector and the key."""
    try:
        return msgspec.convert(table.options, kind)
    except msgspec.ValidationError as error:
        place = f"collector '{table.name}' (kind {table.kind})"
        raise ConfigError(
            place, explained(error, kind), f"Its options are listed in docs/configuration.md#{table.kind}"
        ) from error
