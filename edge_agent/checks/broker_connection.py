"""The broker connection as `tidegate-edge check` tests it: TLS files, addresses, and connections to the brokers."""

from __future__ import annotations

from pathlib import Path

from edge_agent.config import Config
from edge_agent.link.pki import DeviceIdentity
from shared.checks import connection_error
from shared.errors import ConfigError
from shared.mqtt import parse_address
from shared.tls import pair_problem

LOCAL = {"localhost", "127.0.0.1", "::1"}


def check_broker_connection(config: Config) -> tuple[list[str], list[str]]:
    """Check the link; returns (problems, warnings). Unusable files are problems, an unreachable broker is a warning."""
    problems: list[str] = []
    warnings: list[str] = []
    wanted, pki = config.link, DeviceIdentity(config.device.state_dir)
    if not wanted.discover and not wanted.address and not wanted.fallback:
        problems.append('link: discover is off and no address is set. Write for example: address = "10.0.0.5:8883"')
    files = _files(config, pki, problems)
    for place, text in (("link.address", wanted.address), *(("link.fallback", text) for text in wanted.fallback)):
        try:
            address = parse_address(text, place) if text else None
        except ConfigError as error:
            problems.append(str(error))
            continue
        if address is None:
            continue
        if wanted.tls is None and not pki.enrolled and address[0] not in LOCAL:
            problems.append(f"{place}: {address[0]} is reached without TLS. Enrol the device, or set [link.tls]")
        if reason := connection_error(address, files):
            warnings.append(f"{place}: {reason}")
    return problems, warnings


def _files(config: Config, pki: DeviceIdentity, problems: list[str]) -> tuple[str, str, str] | None:
    """The PEM files of the link if they are complete and usable; adds what is wrong with them to `problems`."""
    tls = config.link.tls
    if tls is None:
        return _enrolled(config, pki, problems) if pki.enrolled else None
    paths = {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key}
    missing = [
        f"link.tls.{name}: {path} is not there. Enrol the device and leave [link.tls] away, or correct the path"
        for name, path in paths.items()
        if not Path(path).is_file()
    ]
    problems += missing
    if missing:
        return None
    if reason := pair_problem(tls.ca, tls.certificate, tls.key):
        problems.append(f"link.tls: {reason}. Give the key that belongs to the certificate")
        return None
    return tls.ca, tls.certificate, tls.key


def _enrolled(config: Config, pki: DeviceIdentity, problems: list[str]) -> tuple[str, str, str] | None:
    try:
        subject = pki.certificate().subject.rfc4514_string()
        pki.key()
        pki.signing_key()
    except ConfigError as error:
        problems.append(str(error))
        return None
    if subject != f"CN={config.device.id}":
        cure = "Set device.id to what was enrolled, or enrol anew"
        problems.append(f"{pki.device}: is the certificate of {subject}, not of '{config.device.id}'. {cure}")
    return str(pki.ca), str(pki.device), str(pki.device)
