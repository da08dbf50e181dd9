"""A hub that enrols, in this process: REST over a real database and a real CA, and what a device sends there."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from simulators import databases
from simulators.actions import action_service
from simulators.brokers import free_port, listens, until

from cloud_hub.api import est, http_server
from cloud_hub.api.dependencies import Hub
from cloud_hub.api.routes import create_rest_app
from cloud_hub.certificates import enrolment
from cloud_hub.certificates import registry as register
from cloud_hub.certificates.files import CaFolder
from cloud_hub.clock import now_us
from cloud_hub.database.sessions import Database
from cloud_hub.settings import Rest, RestTls, Settings
from shared.protocol import signatures

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def csr(key: Key, cn: str) -> bytes:
    """A PKCS#10 request as EST sends it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)] if cn else [])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return b64encode(request.public_bytes(Encoding.DER))


def basic(device: str, claim: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{device}:{claim}".encode()).decode()}


def proof(key: Key, certificate: x509.Certificate, t_us: int, body: bytes, path: str) -> dict[str, str]:
    signature = key.sign(signatures.proof("POST", path, t_us, body), ec.ECDSA(hashes.SHA256()))
    der = certificate.public_bytes(Encoding.DER)
    return {signatures.PROOF_HEADER: signatures.Proof(certificate=der, t_us=t_us, signature=signature).header}


def problem(answer: Any) -> str:
    return f"{answer.status_code} {answer.json()['title']}"


class EnrolmentHub:
    """Serves the hub's REST over TLS on loopback; its clock may be moved, and it remembers who asked for what."""

    def __init__(self, folder: Path, names: list[str], like: EnrolmentHub | None, days: float) -> None:
        folder.mkdir(parents=True)
        self.offset_us, self.heard = int(days * 86_400_000_000), []  # type: ignore[var-annotated]
        self.folder = CaFolder(folder) if like is None else like.folder
        if like is None:
            self.folder.make("plant-1", self.now_us())
        self.ca, self.port = self.folder.certificate, free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        made = self.folder.issue_server(names, self.now_us())
        (folder / "rest.pem").write_bytes(made.certificate)
        (folder / "rest.key").write_bytes(made.key)
        self.db = Database(databases.sqlite(folder))
        app = create_rest_app()
        settings = Settings(state_dir=str(self.folder.path.parent))
        app.state.hub = Hub(settings=settings, db=self.db, publish=list, notify=print,
                                 actions=action_service(), connected=lambda: True)  # fmt: skip

        @app.middleware("http")
        async def remember(request: Any, call_next: Any) -> Any:
            self.heard.append(request.url.path)
            return await call_next(request)

        tls = RestTls(certificate=str(folder / "rest.pem"), key=str(folder / "rest.key"))
        self.server = uvicorn.Server(http_server.config(app, Rest(port=self.port, tls=tls)))

    def now_us(self) -> int:
        return now_us() + self.offset_us

    def pass_days(self, days: float) -> None:
        """Move the hub's clock."""
        self.offset_us += int(days * 86_400_000_000)

    def claim(self, device: str) -> str:
        with self.db.write() as session:
            return enrolment.create_claim(session, device, self.now_us(), actor="test")

    def revoke(self, device: str) -> None:
        with self.db.write() as session:
            register.revoke(session, device, self.now_us(), actor="test")


@contextmanager
def enrolment_hub(
    folder: Path, *, names: list[str] | None = None, like: EnrolmentHub | None = None, days: float = 0
) -> Iterator[EnrolmentHub]:
    """A running one, its clock `days` from now; `like` shares another one's CA."""
    hub = EnrolmentHub(folder, names or ["127.0.0.1"], like, days)
    original, est.now_us = est.now_us, hub.now_us
    thread = threading.Thread(target=hub.server.run)
    thread.start()
    try:
        until("REST listens", lambda: listens(hub.port))
        yield hub
    finally:
        hub.server.should_exit = True
        thread.join(20)
        hub.db.close()
        est.now_us = original
