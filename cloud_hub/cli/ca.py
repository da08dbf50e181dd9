"""ca init, show, issue-server, claim, list, revoke, crl: manages the CA in the hub's state_dir."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_hub.cli import Commands, clean
from cloud_hub.cli.times import seconds
from shared.errors import ConfigError

if TYPE_CHECKING:
    from cloud_hub.certificates.files import CaFolder
    from cloud_hub.database.sessions import Database
    from cloud_hub.settings import Settings

EXAMPLES = """examples:
  tidegate-hub ca init --config hub.toml                          create the CA once; protect state_dir/ca
  tidegate-hub ca show --config hub.toml > ca.pem                 the trust anchor of every device
  tidegate-hub ca issue-server --name hub.plant.example --name 10.0.0.5 --out /etc/tidegate/rest --config hub.toml
  tidegate-hub ca claim press-3 --life 24h --config hub.toml      a one-time claim; shown once
  tidegate-hub ca list --config hub.toml                          certificates of devices
  tidegate-hub ca revoke press-3 --reason stolen --broker /var/lib/tidegate-broker --config hub.toml

exit codes: 0 success; 1 refused (revoked, or no device id); 2 usage; 78 no CA, or it cannot be used
"""


def add(commands: Commands) -> None:
    """Add the parsers of this command group."""
    group = commands.add_parser(
        "ca", help="create the CA, enrol and revoke devices", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    subcommands = group.add_subparsers(dest="what", required=True, metavar="COMMAND")

    def subcommand(name: str, text: str, action: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = subcommands.add_parser(name, help=text, description=text)
        made.add_argument(
            "--config", type=Path, help="the hub's TOML file (default: built-in defaults and TIDEGATE_... variables)"
        )
        made.set_defaults(action=action)
        return made

    subcommand("init", "create the CA, the hub's signing key and an empty certificate revocation list", _init)
    subcommand("show", "print the CA's certificate (PEM); its fingerprint goes to stderr", _show)
    server = subcommand("issue-server", "issue key and certificate for a broker or for REST", _issue_server)
    server.add_argument("--name", action="append", required=True, help="host name or address; repeatable")
    server.add_argument("--out", type=Path, required=True, metavar="STEM", help="writes STEM.pem and STEM.key (0600)")
    server.add_argument("--days", type=float, default=825.0, help="validity in days (default 825)")
    claim = subcommand("claim", "create a one-time claim for a device; printed once", _claim)
    claim.add_argument("device")
    claim.add_argument(
        "--life", type=seconds, default=86400.0, metavar="TIME", help="validity such as 90s, 2h, 3d (default 24h)"
    )
    claim.add_argument(
        "--out", type=Path, metavar="FILE", help="write to this new file (mode 0600) instead of printing"
    )
    claim.add_argument("--readmit", action="store_true", help="even if the device was revoked")
    subcommand("list", "list the certificates of devices", _list)
    revoke = subcommand("revoke", "revoke a device, at the hub and (after it reloads) at the broker", _revoke)
    revoke.add_argument("device")
    revoke.add_argument("--reason", default="", help="recorded in the audit trail")
    text = "configuration directory of a broker on this machine; it then blocks the device and its open sessions"
    revoke.add_argument("--broker", type=Path, metavar="FOLDER", help=text)
    subcommand("crl", "write state_dir/ca/crl.pem from the database", _crl)


def _settings(arguments: argparse.Namespace) -> Settings:
    from cloud_hub import settings  # noqa: PLC0415

    return settings.read(arguments.config)


def _folder(settings: Settings) -> CaFolder:
    from cloud_hub.certificates.files import CaFolder  # noqa: PLC0415

    return CaFolder(settings.state_dir)


def _now_us() -> int:
    from cloud_hub.clock import now_us  # noqa: PLC0415

    return now_us()


def _open(settings: Settings) -> Database:
    from cloud_hub.database.sessions import Database  # noqa: PLC0415

    return Database(settings.database_url)


def _init(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    folder = _folder(settings)
    folder.make(settings.name, _now_us())
    print(f"{folder.path}: created. Its key {folder.key.name} signs the certificates of all devices: keep it secret")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415

    authority = _folder(_settings(arguments)).open()
    print(f"SHA-256 {authority.certificate.fingerprint(hashes.SHA256()).hex(':')}", file=sys.stderr)
    print(authority.pem.decode(), end="")
    return 0


def _issue_server(arguments: argparse.Namespace) -> int:
    from cloud_hub.certificates.files import write_file  # noqa: PLC0415

    stem: Path = arguments.out
    wrong = [name for name in arguments.name if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,253}", name)]
    if wrong:
        raise ConfigError(
            "--name", f"'{clean(wrong[0])[:80]}' is not a host name or address", "Give for example 10.0.0.5"
        )
    made = _folder(_settings(arguments)).issue_server(arguments.name, _now_us(), arguments.days)
    try:
        write_file(stem.with_name(f"{stem.name}.key"), made.key, secret=True)
        write_file(stem.with_name(f"{stem.name}.pem"), made.certificate)
    except OSError as error:
        raise ConfigError(str(stem), f"cannot be written ({error.strerror})", "Give --out another path") from error
    print(f"{stem}.pem and {stem}.key: for {', '.join(arguments.name)}, valid for {arguments.days:g} days")
    return 0


def _claim(arguments: argparse.Namespace) -> int:
    from cloud_hub.certificates import enrolment  # noqa: PLC0415
    from cloud_hub.security import secret_files  # noqa: PLC0415

    settings = _settings(arguments)
    _folder(settings).open()
    db = _open(settings)
    try:
        with db.write() as session:
            text = enrolment.create_claim(
                session, arguments.device, _now_us(), actor="command line", life_s=arguments.life,
                readmit=arguments.readmit, hub=settings.mqtt.client_id,
            )  # fmt: skip
    finally:
        db.close()
    if arguments.out is None:
        print(text)
    else:
        secret_files.write(arguments.out, text)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from cloud_hub.certificates import registry as certificates  # noqa: PLC0415
    from cloud_hub.certificates.core.authority import x509_time  # noqa: PLC0415

    db = _open(_settings(arguments))
    with db.read() as session:
        rows = certificates.certificates(session)
    db.close()
    for row in rows:
        state = "good" if row.expires_us > _now_us() else "expired"
        state = state if row.revoked_us is None else f"revoked {x509_time(row.revoked_us):%Y-%m-%d}"
        issued, expires = x509_time(row.issued_us), x509_time(row.expires_us)
        print(f"{row.cn:<24} {issued:%Y-%m-%d} to {expires:%Y-%m-%d}  {state:<18}  {row.serial}")
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    from cloud_hub.certificates import registry as certificates  # noqa: PLC0415

    db = _open(_settings(arguments))
    with db.write() as session:
        actor = "command line"
        ended = certificates.revoke(session, arguments.device, _now_us(), actor=actor, reason=arguments.reason)
    db.close()
    print(f"'{clean(arguments.device)}' is revoked at the hub, with {ended} certificates")
    return _crl(arguments) or (_deny(arguments) if arguments.broker else 0)


def _deny(arguments: argparse.Namespace) -> int:
    from cloud_hub.broker.config_directory import edit_access_list, reload  # noqa: PLC0415
    from cloud_hub.broker.core.mosquitto import deny_paragraph  # noqa: PLC0415

    edit_access_list(arguments.broker, deny_paragraph(arguments.device))
    reload(arguments.broker, _folder(_settings(arguments)))
    print(f"{arguments.broker}: certificates of the device are refused, and its open session is blocked")
    return 0


def _crl(arguments: argparse.Namespace) -> int:
    from cloud_hub.certificates import registry as certificates  # noqa: PLC0415

    settings = _settings(arguments)
    folder, now_us = _folder(settings), _now_us()
    db = _open(settings)
    with db.read() as session:
        revoked = certificates.revocations(session, now_us)
    db.close()
    folder.write_crl(revoked, now_us)
    hint = "" if getattr(arguments, "broker", None) else ". Reload the broker (docs/broker.md)"
    print(f"{folder.crl}: {len(revoked)} revoked certificates{hint}")
    return 0
