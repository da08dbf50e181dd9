"""AWS Signature Version 4, the verifying side. A core: time and secrets come in.

Source: AWS General Reference, "Create a signed AWS API request" (canonical request, string to sign, signing key). Only
requests signed in their headers are taken: no presigned ones, no unsigned or chunked payloads.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from urllib.parse import quote, unquote_to_bytes

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE = "iotdata"
SKEW_S = 300

_AUTHORIZATION = re.compile(
    r"Credential=(?P<key>[A-Za-z0-9_-]{1,128})/(?P<date>\d{8})/(?P<region>[a-z0-9-]{1,64})/(?P<service>[a-z0-9-]{1,64})"
    r"/aws4_request, *SignedHeaders=(?P<signed>[^A-Z;, ]+(?:;[^A-Z;, ]+)*), *Signature=(?P<signature>[0-9a-f]{64})"
)
_STAMP = re.compile(r"\d{8}T\d{6}Z")


class Refused(ValueError):
    """The request is not from whom it claims to be; `code` is the error type that AWS clients know."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class WrongSignature(Refused):
    """Signed with another secret: a guess."""


class UnknownKey(Refused):
    """No living token has this key id."""

    def __init__(self) -> None:
        super().__init__("UnrecognizedClientException", "The access key id is not known, or its token was revoked.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it came over the wire: path and query undecoded, header values as latin-1 text."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """Every value of one header, `name` in lower case, in the order received."""
        return [value for key, value in self.headers if key.lower() == name]


def key_id(request: Request, now_s: float) -> str:
    """The access key id that the headers name. Raises Refused for all that can be judged without the body."""
    fields = _authorization(request)
    _check_signed(request, fields["signed"].split(";"))
    _stamp(request, fields, now_s)
    return fields["key"]


def verify(request: Request, now_s: float, secret_of: Callable[[str], str | None]) -> str:
    """The access key id that signed `request`; raises Refused. `secret_of(key id)` is None for an unknown one."""
    authorization = _authorization(request)
    signed = authorization["signed"].split(";")
    _check_signed(request, signed)
    stamp = _stamp(request, authorization, now_s)
    digest = _digest(request)
    secret = secret_of(authorization["key"])
    if secret is None:
        raise UnknownKey
    scope = f"{authorization['date']}/{authorization['region']}/{authorization['service']}/aws4_request"
    text = string_to_sign(stamp, scope, canonical_request(request, signed, digest))
    wanted = _hmac(
        signing_key(secret, authorization["date"], authorization["region"], authorization["service"]), text
    ).hex()
    if not hmac.compare_digest(wanted, authorization["signature"]):
        raise WrongSignature(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method.",
        )
    return authorization["key"]


# -- what is signed --------------------------------------------------------------------------------


def canonical_request(request: Request, signed: Sequence[str], digest: str) -> str:
    """The request in the one form that both sides hash; `digest` is the body's SHA-256 in hex."""
    headers = [f"{name}:{','.join(map(_trimmed, request.values(name)))}\n" for name in signed]
    lines = [request.method.upper(), _path(request.path), _query(request.query), "".join(headers), ";".join(signed)]
    return "\n".join([*lines, digest])


def _trimmed(value: str) -> str:
    return re.sub("[ \t]+", " ", value).strip(" ")


def _path(raw: str) -> str:
    """Dot segments and doubled slashes away, then encoded once more: all services but S3 sign the path so."""
    kept: list[str] = []
    for part in raw.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in {"", "."}:
            kept.append(part)
    last = "/" if raw.endswith("/") and kept else ""
    return quote(f"/{'/'.join(kept)}{last}".encode("latin-1"), safe="/~")


def _query(raw: str) -> str:
    pairs = [pair.partition("=")[::2] for pair in raw.split("&") if pair]
    return "&".join(f"{name}={value}" for name, value in sorted((_encoded(n), _encoded(v)) for n, v in pairs))


def _encoded(raw: str) -> str:
    return quote(unquote_to_bytes(raw.encode("latin-1")), safe="~")


def string_to_sign(stamp: str, scope: str, canonical: str) -> str:
    """What the signing key signs."""
    return "\n".join([ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode("latin-1")).hexdigest()])


def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """The key of one day, region and service, derived from the secret access key."""
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode("latin-1"), hashlib.sha256).digest()


# -- what a signature must cover ---------------------------------------------------------------------


def _authorization(request: Request) -> dict[str, str]:
    sent = request.values("authorization")
    if "X-Amz-Signature" in request.query or "X-Amz-Algorithm" in request.query:
        raise Refused("MissingAuthenticationTokenException", "Presigned requests are not served: sign in the header.")
    if not sent:
        raise Refused("MissingAuthenticationTokenException", f"Sign the request with {ALGORITHM}.")
    algorithm, _, rest = sent[0].partition(" ")
    match = _AUTHORIZATION.fullmatch(rest.strip())
    if len(sent) > 1 or algorithm != ALGORITHM or match is None:
        raise Refused(
            "IncompleteSignatureException",
            f"Send one header 'Authorization: {ALGORITHM} Credential=.../{SERVICE}/aws4_request, SignedHeaders=..., "
            "Signature=...'.",
        )
    if match["service"] != SERVICE:
        raise Refused("SignatureDoesNotMatch", f"Credential should be scoped to correct service: '{SERVICE}'.")
    return match.groupdict()


def _check_signed(request: Request, signed: list[str]) -> None:
    if signed != sorted(set(signed)):
        raise Refused("IncompleteSignatureException", "SignedHeaders must be in order, each once.")
    there = {name.lower() for name, _ in request.headers}
    if missing := set(signed) - there:
        raise Refused("IncompleteSignatureException", f"The signed header '{min(missing)}' is not in the request.")
    needed = {"host", "x-amz-date"} | {name for name in there if name.startswith("x-amz-")}
    if unsigned := needed - set(signed):
        raise Refused("SignatureDoesNotMatch", f"'{min(unsigned)}' must be a SignedHeader in the AWS Authorization.")


def _stamp(request: Request, authorization: dict[str, str], now_s: float) -> str:
    sent = request.values("x-amz-date")
    try:
        if len(sent) != 1 or not _STAMP.fullmatch(sent[0]):
            raise ValueError
        at = datetime.strptime(sent[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        raise Refused("IncompleteSignatureException", "X-Amz-Date must be one time, as 20150830T123600Z.") from None
    if authorization["date"] != sent[0][:8]:
        raise Refused("SignatureDoesNotMatch", "Date in Credential scope does not match YYYYMMDD from X-Amz-Date.")
    if abs(at.timestamp() - now_s) > SKEW_S:
        raise Refused("RequestTimeTooSkewed", f"The request's time is more than {SKEW_S} s from the hub's clock.")
    return sent[0]


def _digest(request: Request) -> str:
    digest = hashlib.sha256(request.body).hexdigest()
    if any(value != digest for value in request.values("x-amz-content-sha256")):
        raise Refused("XAmzContentSHA256Mismatch", "X-Amz-Content-SHA256 is not the SHA-256 of the body.")
    return digest
