"""Defines and reads the hub's settings: a TOML file, and environment variables `TIDEGATE_...` (nested by `__`)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from cloud_hub.settings import environment
from cloud_hub.settings.actions import Actions
from cloud_hub.settings.channels import AnyChannel
from cloud_hub.settings.experts import Experts
from cloud_hub.settings.inference import Inference
from cloud_hub.settings.scada import Sparkplug
from shared.errors import ConfigError


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RestTls(_Table):
    """PEM files with which REST is served over TLS."""

    certificate: str
    key: str


class Rest(_Table):
    """Where REST listens; over TLS when `tls` is set. `proxies`: whose word on the client's address (X-Forwarded-For)
    is believed. Connections are bounded together and for each address; proxies are bounded together only.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    tls: RestTls | None = None
    proxies: list[str] = ["127.0.0.1"]
    max_connections: int = Field(default=500, ge=1)
    max_connections_per_address: int = Field(default=100, ge=1)


class MqttTls(_Table):
    """PEM files for mutual TLS 1.3."""

    ca: str
    certificate: str
    key: str


class Mqtt(_Table):
    """The broker; `client_id` names the hub's session there. `fallback` are tried in order when it is away.

    Each device may bring `device_rate` messages a second (0: any number); what is beyond is refused and counted. A
    message that costs the hub more than one of a single sample counts as several.
    """

    address: str = "127.0.0.1:1883"
    client_id: str = "tidegate-hub"
    tls: MqttTls | None = None
    fallback: list[str] = []
    device_rate: float = Field(default=1000.0, ge=0)


class Discovery(_Table):
    """Announce the broker by zeroconf, on these interface addresses (all when empty)."""

    announce: bool = True
    interfaces: list[str] = []


class Twins(_Table):
    """Limit of one twin document in bytes of JSON, metadata not counted; and what AWS's own clients are offered."""

    max_bytes: int = Field(default=32768, ge=1024)
    aws_alias: bool = False
    aws_max_bytes: int = Field(default=8192, ge=1024)
    aws_key_file: str = ""


class Ca(_Table):
    """Certificates of devices are good for `device_days` days; devices renew them at two thirds of that."""

    device_days: float = Field(default=30.0, gt=0, le=825)


class Configurations(_Table):
    """Every `period_s` seconds all devices are held against the configurations; one that changed is at once."""

    period_s: float = Field(default=300.0, gt=0)


class Playbooks(_Table):
    """A folder of playbooks, `<name>.yaml` each, beside those that come with the hub."""

    folder: str = ""


class Desk(_Table):
    """The diagnosis of incidents: its language, the file with a site's own rules, and whether the decision tree is
    asked about alarms that no rule matches.
    """

    language: Literal["en", "zh"] = "en"
    rules_file: str = ""
    tree: bool = True


class Autoscale(_Table):
    """The YAML file that says what is scaled (docs/autoscaling.md); empty: nothing."""

    targets_file: str = ""


class Oidc(_Table):
    """People by OpenID Connect: bearer tokens of `issuer` for `audience`, signed by a key of its JWKS (file or URL).

    `roles` maps a value of the claim `roles_claim` to roles of the hub, with spaces between. `scope_claim` names a
    claim with asset paths; without the setting everybody sees the whole hub. `mfa` are values of acr, amr or acrs:
    one must be there for administrative changes.
    """

    issuer: str = Field(min_length=1)
    audience: str = Field(min_length=1)
    jwks_file: str = ""
    jwks_url: str = ""
    actor_claim: str = Field(default="sub", min_length=1)
    roles_claim: str = Field(default="roles", min_length=1)
    roles: dict[str, str] = {}
    scope_claim: str = ""
    mfa: list[str] = Field(default=["mfa"], min_length=1)
    leeway_s: float = Field(default=30.0, ge=0, le=300)


class Retention(_Table):
    """Days that rows are kept; 0: for ever. Rollups of days are kept for ever."""

    telemetry_days: float = Field(default=7.0, ge=0)
    minutes_days: float = Field(default=30.0, ge=0)
    hours_days: float = Field(default=365.0, ge=0)
    events_days: float = Field(default=0.0, ge=0)
    escalations_days: float = Field(default=0.0, ge=0)
    history_days: float = Field(default=0.0, ge=0)
    jobs_days: float = Field(default=0.0, ge=0)
    questions_days: float = Field(default=90.0, ge=0)
    incidents_days: float = Field(default=0.0, ge=0)
    tasks_days: float = Field(default=30.0, ge=0)
    scaling_days: float = Field(default=90.0, ge=0)
    scaling_holds_days: float = Field(default=2.0, ge=0)


class Prometheus(_Table):
    """Remote write: at most `max_series` series are given a device and a metric here."""

    max_series: int = Field(default=100_000, ge=1)


class Ui(_Table):
    """The operator pages. A session ends after `idle_s` seconds without a click. The overview counts the calls of the
    last `shift_s` seconds against `calls_per_shift`.
    """

    idle_s: float = Field(default=1800.0, ge=60, le=43200)
    shift_s: float = Field(default=43200.0, ge=3600, le=604800)
    calls_per_shift: int = Field(default=5, ge=1)


class Tracing(_Table):
    """OpenTelemetry: spans go to `endpoint` by OTLP over HTTP, of a `share` of all traces. Empty: off."""

    endpoint: str = Field(default="", pattern=r"^(https?://.+)?$")
    share: float = Field(default=1.0, ge=0, le=1)


class Settings(BaseSettings):
    """The whole hub. `state_dir` holds the database unless `database` names another."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="TIDEGATE_", env_nested_delimiter="__")

    name: str = "hub"
    state_dir: str = "/var/lib/tidegate-hub"
    database: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    rest: Rest = Rest()
    mqtt: Mqtt = Mqtt()
    discovery: Discovery = Discovery()
    twins: Twins = Twins()
    configurations: Configurations = Configurations()
    experts: Experts = Experts()
    inference: Inference = Inference()
    desk: Desk = Desk()
    actions: Actions = Actions()
    playbooks: Playbooks = Playbooks()
    autoscale: Autoscale = Autoscale()
    ca: Ca = Ca()
    oidc: Oidc | None = None
    retention: Retention = Retention()
    prometheus: Prometheus = Prometheus()
    sparkplug: Sparkplug = Sparkplug()
    tracing: Tracing = Tracing()
    ui: Ui = Ui()
    notify: dict[str, AnyChannel] = {}

    @property
    def database_url(self) -> str:
        """SQLAlchemy address of the database."""
        return self.database or f"sqlite:///{Path(self.state_dir) / 'hub.sqlite'}"

    @property
    def aws_key_path(self) -> Path:
        """The file that the AWS secrets of tokens are derived from."""
        return Path(self.twins.aws_key_file or Path(self.state_dir) / "aws.key")


REMOVED = {
    "glm": (
        "this table is gone: language models are pools of the gateway",
        'Write [[inference.pools]] with name = "large", addresses = [its url], model and key_file (docs/glm.md)',
    )
} | {
    f"autoscale.{key}": (
        "this setting is gone: targets are in a file of their own",
        "Write autoscale.targets_file = \"targets.yaml\" and the target into that file (docs/autoscaling.md)",
    )
    for key in (
        "kind", "options", "minimum", "maximum", "per_replica", "max_step", "cooldown_s", "per_hour", "window_s",
        "watch_s",
    )
}  # fmt: skip
"""Tables and settings of former versions: (what became of it, what to write now)."""


def _wrong(error: ValidationError, path: Path | None) -> ConfigError:
    """The error for the first wrong value; names the environment variable if it came from one."""
    first = error.errors()[0]
    place, reason, cure = first["loc"], str(first["msg"]), "Every key is in docs/configuration.md"
    for removed in (str(place[0]), ".".join(map(str, place[:2]))):
        if removed in REMOVED:
            return ConfigError(f"{path or 'environment'}: {removed}", *REMOVED[removed])
    if first["type"] == "extra_forbidden":
        reason += environment.did_you_mean(Settings, place)
    key = ".".join(map(str, place))
    sibling = environment.sibling_variable(os.environ, place) if first["type"] == "missing" else ""
    if variable := environment.source_variable(os.environ, place) or sibling:
        return ConfigError(f"environment variable {variable}: {key}", reason, f"Correct it or unset it. {cure}")
    return ConfigError(f"{path or 'environment'}: {key}", reason, cure)


def read(path: Path | None) -> Settings:
    """Settings from `path` (or none) and the environment; raises ConfigError that names the key."""
    if path is not None and not path.is_file():
        raise ConfigError(str(path), "is not there", "Give the file with --config FILE")

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            """The environment goes before the file."""
            return (env_settings, TomlConfigSettingsSource(settings_cls, path)) if path else (env_settings,)

    for variable, table in environment.variables_of(os.environ, REMOVED).items():
        raise ConfigError(f"environment variable {variable}", *REMOVED[table])
    for variable, near in environment.unknown_variables(os.environ, Settings).items():
        if near:
            cure = "Correct its name or unset it. Every key is in docs/configuration.md"
            raise ConfigError(f"environment variable {variable}", f"there is no such setting{near}", cure)
    try:
        return FromFile()
    except ValidationError as error:
        raise _wrong(error, path) from error
    except SettingsError as error:  # an environment variable that stands for a table or a list
        match = re.search(r'field "(\w+)"', str(error))
        names = environment.invalid_variables(os.environ, match[1]) if match else ""
        place = f"environment variable {names}" if names else "environment"
        raise ConfigError(place, str(error), "Write tables and lists as JSON") from error
    except ValueError as error:
        raise ConfigError(str(path), str(error), "Mend the TOML") from error
