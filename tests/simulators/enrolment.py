"""A hub that enrols, in this process: REST over a real database and a real CA, and what a device sends there."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from shared import signed

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
    signature = key.sign(signed.proof("POST", path, t_us, body), ec.ECDSA(hashes.SHA256()))
    der = certificate.public_bytes(Encoding.DER)
    return {signed.PROOF_HEADER: signed.Proof(certificate=der, t_us=t_us, signature=signature).header}


def pem_files(folder: Path, key: Key, certificate: x509.Certificate) -> tuple[Path, Path]:
    """`device.pem` and `device.key` in `folder`."""
    from cloud_hub.ca.authority import key_pem

    (folder / "device.key").write_bytes(key_pem(key))
    (folder / "device.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    return folder / "device.pem", folder / "device.key"


def problem(answer: Any) -> str:
    return f"{answer.status_code} {answer.json()['title']}"
