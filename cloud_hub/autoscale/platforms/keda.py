"""Publishes the wanted count for platforms that fetch it: KEDA's external scaler, or an HPA that reads Prometheus.

`scale` changes nothing on a platform. The count is published by gRPC (`listen`) and as the metric
`tidegate_autoscale_desired_replicas` of /metrics. It is kept in `state_file`: a hub that starts again publishes what it
wanted last, and not a first guess that would end instances.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import msgspec

from cloud_hub.autoscale import Counts, Scaler
from cloud_hub.autoscale.platforms.idempotent import IdempotentScaler, Reading
from cloud_hub.autoscale.platforms.options import LOCAL, PLACE, read_options
from cloud_hub.autoscale.published import PUBLISHED
from shared.errors import ConfigError, NotReady

TARGET = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
LISTEN = re.compile(r"(?P<host>\[[0-9a-f:]+\]|[A-Za-z0-9.-]+):(?P<port>\d{1,5})\Z")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`target` is the name that KEDA's trigger and the metric's label have.

    `listen` is host:port of the gRPC server, empty for the metric alone; mutual TLS by `cert_file`, `key_file` and
    `client_ca_file` is needed beyond loopback. `initial` is published while there is no `state_file` yet: give the
    instances that run now. A count that the autoscaler did not confirm for `fresh_s` is not published any more.
    """

    target: str
    state_file: str
    initial: int
    minimum: int = 0
    maximum: int = 10_000
    fresh_s: float = 300.0
    listen: str = ""
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""

    def __post_init__(self) -> None:
        if not TARGET.match(self.target):
            raise ValueError(f"target must be a-z, 0-9 and -, not '{self.target}'")
        if not 0 <= self.minimum <= self.initial <= self.maximum <= 10_000:
            raise ValueError("0 <= minimum <= initial <= maximum <= 10000 does not hold")
        if not self.fresh_s > 0:
            raise ValueError("fresh_s must be above 0, and longer than the target's period_s")
        found = LISTEN.match(self.listen)
        if self.listen and (not found or int(found["port"]) > 65535):
            raise ValueError(f"listen must be host:port, not '{self.listen}'")
        files = sum(map(bool, (self.cert_file, self.key_file, self.client_ca_file)))
        if files not in (0, 3):
            raise ValueError("cert_file, key_file and client_ca_file belong together")
        if found and not files and found["host"].strip("[]") not in LOCAL:
            raise ValueError("listen beyond loopback needs cert_file, key_file and client_ca_file")


class _Kept(msgspec.Struct, frozen=True):
    wanted: int


def open_scaler(options: dict[str, object]) -> Scaler:
    """Create a publisher for one target; raises ConfigError. It listens from the first call on."""
    return IdempotentScaler(KedaPlatform(read_options(options, Options, "Give target, state_file, and listen")))


class KedaPlatform:
    """The published count of one target."""

    repeatable = False

    def __init__(self, options: Options) -> None:
        self.name = f"keda:{options.target}"
        self._options = options
        self._file = Path(options.state_file)
        if options.listen:
            _require_grpc()
        for name in ("cert_file", "key_file", "client_ca_file"):
            if (path := getattr(options, name)) and not Path(path).is_file():
                raise ConfigError(f"{PLACE}.{name}", f"'{path}' is no file", "Name a readable PEM file")
        self._last()

    def read(self) -> Reading:
        """The published count; the platform's own is not known here."""
        options, wanted = self._options, PUBLISHED.get(self._options.target)
        if wanted is None:
            wanted = min(max(self._last(), options.minimum), options.maximum)
        PUBLISHED.set(options.target, wanted, options.fresh_s)
        self._serve()
        return Reading(counts=Counts(desired=wanted, minimum=options.minimum, maximum=options.maximum))

    def write(self, to: int, key: str, seen: Reading) -> None:
        """Keep the count in the file, then publish it."""
        new = self._file.with_name(self._file.name + ".new")
        try:
            new.write_bytes(msgspec.json.encode(_Kept(to)))
            new.replace(self._file)
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            raise NotReady(f"{self.name}: '{self._file}' cannot be written ({error.strerror})", 10.0) from None
        PUBLISHED.set(self._options.target, to, self._options.fresh_s)

    def rehearse(self, to: int, seen: Reading) -> None:
        """Nothing but the limits."""

    def _last(self) -> int:
        place, cure = f"{PLACE}.state_file", "Delete it; then `initial` is published"
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept).wanted
        except FileNotFoundError:
            return self._options.initial
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(place, f"'{self._file}' cannot be used ({error})", cure) from None
        if kept < 0:
            raise ConfigError(place, f"'{self._file}' holds {kept}", cure)
        return kept

    def _serve(self) -> None:
        options = self._options
        if not options.listen:
            return
        from cloud_hub.autoscale.platforms.keda_server import Address, serve  # noqa: PLC0415 - an extra

        serve(Address(options.listen, options.cert_file, options.key_file, options.client_ca_file))


def _require_grpc() -> None:
    try:
        import grpc  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(f"{PLACE}.listen", str(error), "Install the extra 'keda', or leave listen empty") from error
