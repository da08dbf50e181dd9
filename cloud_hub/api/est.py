"""/.well-known/est (RFC 7030): enrolment, renewal; /.well-known/tidegate: the hub's signed time and signing key.

No token here: a claim, or the device's key, is the proof. Served over TLS only; loopback is let through.
"""

from __future__ import annotations

import ipaddress
from base64 import b64decode, b64encode
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.types import Scope

from cloud_hub.api.dependencies import Hub, TheHub
from cloud_hub.certificates import enrolment
from cloud_hub.certificates.files import CaFolder
from cloud_hub.clock import now_us
from cloud_hub.errors import HubError
from cloud_hub.thresholds.limits import files as limit_files
from shared import signatures
from shared.codec import encode
from shared.ids import DEVICE_ID

MAX_REQUEST = 16384
BINARY = {"type": "string", "format": "binary"}
REENROLL = "/.well-known/est/simplereenroll"


async def protected(request: Request) -> None:
    """Raise HubError 403 unless the request came over TLS, or from this machine."""
    host = request.client.host if request.client else ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if request.url.scheme != "https" and not loopback:
        raise HubError(403, "TLS needed", "enrol over https: set [rest.tls], or put a TLS proxy before REST")


async def authenticate(scope: Scope) -> None:
    """Check a request before its body is read: TLS, and for a first certificate the form of the claim."""
    request = Request(scope)
    await protected(request)
    if request.url.path.endswith("/simpleenroll"):
        _basic(request.headers.get("authorization", ""))


async def _content(request: Request) -> bytes:
    return await request.body()


def _folder(hub: TheHub) -> CaFolder:
    folder = CaFolder(hub.settings.state_dir)
    if not folder.exists:
        raise HubError(404, "No CA", "this hub has none. Make it: tidegate-hub ca init")
    return folder


Content = Annotated[bytes, Depends(_content)]
TheCa = Annotated[CaFolder, Depends(_folder)]

_REQUEST = {"requestBody": {"required": True, "content": {"application/pkcs10": {"schema": BINARY}}}}

router = APIRouter(prefix="/.well-known", tags=["enrolment"], dependencies=[Depends(protected)])


@router.get("/est/cacerts", response_class=Response)
def cacerts(ca: TheCa) -> Response:
    """The CA certificate (PKCS#7). Clients that do not trust it yet must compare it with the output of `ca show`."""
    return _certs_only([ca.open().certificate])


@router.post("/est/simpleenroll", response_class=Response, openapi_extra=_REQUEST)
async def simpleenroll(request: Request, content: Content, hub: TheHub, ca: TheCa) -> Response:
    """Issue the first certificate of a device for a PKCS#10 request with HTTP Basic (device id, one-time claim)."""
    return await run_in_threadpool(_enrol, hub, ca, request.headers.get("authorization", ""), content)


@router.post("/est/simplereenroll", response_class=Response, openapi_extra=_REQUEST)
async def simplereenroll(request: Request, content: Content, hub: TheHub, ca: TheCa) -> Response:
    """Renew a certificate with a `Tidegate-Proof` by the device's key; the old certificate may be expired."""
    return await run_in_threadpool(_reenrol, hub, ca, request.headers.get(signatures.PROOF_HEADER, ""), content)


@router.get("/tidegate/time", response_class=Response)
def time(nonce: str, ca: TheCa) -> Response:
    """`{t_us, nonce}`, signed by the hub: the header `Tidegate-Signature` covers the body's bytes."""
    if not signatures.NONCE.fullmatch(nonce):
        raise HubError(422, "Invalid request", f"nonce: send {signatures.NONCE.pattern}")
    body = encode({"t_us": now_us(), "nonce": nonce})
    signature = signatures.pack(ca.open_signing().sign(signatures.time_message(body)))
    return Response(body, media_type="application/json", headers={signatures.SIGNATURE_HEADER: signature})


@router.get("/tidegate/signing", response_class=Response)
def signing(ca: TheCa) -> Response:
    """The certificate of the key that signs commands and the time (PEM)."""
    return Response(ca.signing_certificate.read_bytes(), media_type="application/pem-certificate-chain")


def _enrol(hub: Hub, ca: CaFolder, authorization: str, content: bytes) -> Response:
    device, text = _basic(authorization)
    with hub.db.read() as session:
        enrolment.require_claim(session, device)
    with hub.db.write(device) as session:
        found = enrolment.enrol(session, ca.open(), device, text, content, now_us(), hub.settings.ca.device_days)
    if isinstance(found, HubError):
        raise found
    return _certs_only([found])


def _reenrol(hub: Hub, ca: CaFolder, header: str, content: bytes) -> Response:
    authority = ca.open()
    actor = enrolment.verify_proof(authority, header, REENROLL, content)
    with hub.db.write(actor.device) as session:
        made = enrolment.reenrol(session, authority, actor, content, now_us(), hub.settings.ca.device_days)
    return _certs_only([made])


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, rest = authorization.partition(" ")
    try:
        device, colon, text = b64decode(rest, validate=True).decode().partition(":")
    except ValueError:
        device = colon = text = ""
    if scheme.lower() != "basic" or not colon or not DEVICE_ID.match(device):
        raise HubError(401, "Not signed in", "send HTTP Basic: the device id as user, its claim as password")
    return device, text


def _certs_only(certificates: list[x509.Certificate]) -> Response:
    """RFC 7030 section 4.1.3: degenerate PKCS#7, base64."""
    content = b64encode(pkcs7.serialize_certificates(certificates, Encoding.DER))
    media = "application/pkcs7-mime; smime-type=certs-only"
    return Response(content, headers={"Content-Type": media, "Content-Transfer-Encoding": "base64"})


@router.get("/tidegate/files/{name}")
def file(name: str, hub: TheHub) -> Response:
    """Desired content too large for a twin. Its name cannot be guessed: only the device's twin contains it."""
    with hub.db.read() as session:
        return Response(limit_files.file_content(session, name), media_type="application/json")
