"""Trust of the device: its identity, the hub's time, and verification of the hub's signatures.

Certificate renewal runs in its own thread, so that a hub that does not answer does not block the agent.
"""

from __future__ import annotations

import logging
import random
import threading
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519

from edge_agent import clock
from edge_agent.link import est
from edge_agent.link.core.hub_time import HubTime
from edge_agent.link.pki import DeviceIdentity
from shared.backoff import Backoff
from shared.errors import ConfigError, NotReady, TidegateError
from shared.protocol import signatures
from shared.protocol.messages import ClockQuality
from shared.transport.mqtt import Inbound, Tls

log = logging.getLogger(__name__)

ASK_TIME_S = 86400.0
RENEW_AT, JITTER = 2 / 3, 1 / 20
"""Certificates are renewed at this share of their lifetime, up to JITTER earlier, to spread the renewals of a fleet."""


def renewal_due_us(begin_us: int, end_us: int, chance: float) -> int:
    """When to renew a certificate that is valid from `begin_us` to `end_us`; `chance` is in 0..1."""
    return begin_us + int((end_us - begin_us) * (RENEW_AT - JITTER * chance))


class TrustManager:
    """Identity and trusted time of `device`; renews its certificate. `on_renewed` is called from another thread."""

    def __init__(self, device: str, state_dir: str, clock_quality: Callable[[], ClockQuality]) -> None:
        self._id, self.pki, self._quality = device, DeviceIdentity(state_dir), clock_quality
        self._signing = self.pki.signing_key()
        self._time, self._lock = HubTime(self.pki.floor_us), threading.Lock()
        self._chance, self._backoff = random.random(), Backoff(5.0, 3600.0, random.random)  # noqa: S311
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)
        self._on_renewed: Callable[[], None] = lambda: None
        if self.pki.enrolled:
            self._raise_floor()

    def start(self, on_renewed: Callable[[], None]) -> None:
        """Start to renew the certificate; does nothing if the device is not enrolled."""
        self._on_renewed = on_renewed
        if self.pki.enrolled and self.pki.url:
            self._thread.start()

    def stop(self) -> None:
        """End the thread; does not wait for a hub that does not answer."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    @property
    def enrolled(self) -> bool:
        """Whether a hub has given this device a certificate."""
        return self.pki.enrolled

    @property
    def url(self) -> str:
        """URL of the hub's REST API; '' before enrolment."""
        return self.pki.url

    @property
    def ca(self) -> str:
        """File of the hub's CA."""
        return str(self.pki.ca)

    def signing_key(self) -> ed25519.Ed25519PublicKey | None:
        """The hub's public signing key, pinned at enrolment."""
        return self._signing

    def tls(self) -> Tls | None:
        """TLS files for the link; None if the device is not enrolled."""
        if not self.pki.enrolled:
            return None
        device = str(self.pki.device)
        return Tls(ca=str(self.pki.ca), certificate=device, key=device, now_us=self.now_us)

    def now_us(self) -> int:
        """The trusted time; may be called from any thread."""
        with self._lock:
            return self._time.now_us(clock.now_us(), clock.boottime_s())

    def clock(self) -> tuple[int, ClockQuality]:
        """The time by which commands expire, and its quality."""
        if self._signing is None:
            return clock.now_us(), self._quality()
        return self.now_us(), "synced" if self._time.known else self._quality()

    def refusal(self, inbound: Inbound) -> str:
        """Why a command is rejected, or ''. Without the hub's key the device has to trust its broker."""
        if self._signing is None:
            return ""
        try:
            self._signing.verify(
                signatures.unpack(inbound.signature), signatures.message(inbound.topic, inbound.payload)
            )
        except (InvalidSignature, ValueError):
            return "it is not signed by this device's hub" if inbound.signature else "it is not signed"
        if self.clock()[1] != "synced":
            return "this device does not know the time yet, so it cannot tell whether the command is an old one"
        return ""

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                wait_s = self.run_once()
                self._backoff.reset()
            except NotReady as error:
                wait_s = max(error.wait_s, self._backoff.wait())
                log.warning("enrolment.not_ready", extra={"fields": {"reason": error.reason}})
            except (TidegateError, OSError) as error:
                wait_s = 3600.0
                log.error("enrolment.refused", extra={"fields": {"reason": str(error)}})
            self._stopping.wait(wait_s)

    def run_once(self) -> float:
        """Request the hub's time and renew the certificate if it is due; returns the seconds until the next run."""
        with est.connect(self.pki.url, str(self.pki.ca), self._signing) as (hub, _):
            with self._lock:
                try:
                    self._time.set_hub_time(hub.t_us, clock.boottime_s())
                except ValueError as error:
                    raise NotReady(str(error), 60.0) from error
            self.pki.keep_floor(self._time.floor_us)
            if (left_s := self._left_s()) <= 0:
                self._renew(hub)
                left_s = self._left_s()
        return max(60.0, min(left_s, ASK_TIME_S))

    def _left_s(self) -> float:
        certificate = self.pki.certificate()
        begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        return (renewal_due_us(int(begin * 1e6), int(end * 1e6), self._chance) - self.now_us()) / 1e6

    def _renew(self, hub: est.HubClient) -> None:
        with self.pki.alone():
            key, request = self.pki.begin(self._id)
            body = b64encode(request)
            certificate = hub.renew(body, self.pki.proof(est.REENROLL, hub.t_us, body))
            self.pki.finish(self._id, key, certificate, self.pki.ca.read_bytes())
        self._raise_floor()
        log.info("enrolment.renewed", extra={"fields": {"until": certificate.not_valid_after_utc.isoformat()}})
        self._on_renewed()

    def _raise_floor(self) -> None:
        """Raise the time floor to the start of the certificate's validity."""
        with self._lock:
            self._time.raise_floor(int(self.pki.certificate().not_valid_before_utc.timestamp() * 1e6))
        self.pki.keep_floor(self._time.floor_us)


def enrol(device: str, state_dir: str, url: str, claim: str, ca_file: str) -> str:
    """Enrol this device at the hub with a claim. Returns the expiry of the certificate (ISO 8601)."""
    pki = DeviceIdentity(state_dir)
    try:
        ca = Path(ca_file).read_bytes()
    except OSError as error:
        cure = "Give the hub's CA (tidegate-hub ca show)"
        raise ConfigError("--ca", f"{ca_file} cannot be read ({error.strerror})", cure) from error
    time = HubTime(pki.floor_us)
    with est.connect(url, ca_file) as (hub, signing):
        try:
            time.set_hub_time(hub.t_us, clock.boottime_s())
        except ValueError as error:
            raise NotReady(str(error)) from error
        with pki.alone():
            key, request = pki.begin(device)
            certificate = hub.enrol(device, claim, request)
            pki.trust(ca, signing, url)
            pki.finish(device, key, certificate, ca)
    pki.keep_floor(time.floor_us)
    return certificate.not_valid_after_utc.isoformat()
