"""A strict OpenID Connect issuer on loopback: its own keys, its JWKS, and tokens good or bad in every known way."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

AUDIENCE = "tidegate"
MAKERS: dict[str, Callable[[], Any]] = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
}


def packed(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Keys by id; `published` are the ids in its JWKS; `fetched` counts how often that was asked for."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Any]] = {}
        self.published: list[str] = []
        self.fetched, self.status, self.padding = 0, 200, ""
        self.url = "https://login.plant.example/realms/acme"
        for algorithm in MAKERS:
            self.add(algorithm.lower(), algorithm)

    def add(self, kid: str, algorithm: str = "EdDSA") -> None:
        """Make and publish a key."""
        self.keys[kid] = (algorithm, MAKERS[algorithm]())
        self.published.append(kid)

    def jwks(self) -> str:
        """The published keys."""
        rows = []
        for kid in self.published:
            algorithm, key = self.keys[kid]
            made = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)  # type: ignore[attr-defined]
            rows.append({**made, "kid": kid, "use": "sig", "alg": algorithm})
        return json.dumps({"keys": rows, "padding": self.padding})

    def claims(self, now_s: float, **more: Any) -> dict[str, Any]:
        """Good claims; a claim given as None is left out."""
        claims = {
            "iss": self.url, "aud": AUDIENCE, "sub": "anna", "iat": int(now_s), "nbf": int(now_s),
            "exp": int(now_s) + 300, "roles": ["plant-operator"],
        } | more  # fmt: skip
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, now_s: float, kid: str = "eddsa", *, header: dict[str, Any] | None = None, **more: Any) -> str:
        """A token signed by key `kid`."""
        algorithm, key = self.keys[kid]
        return jwt.encode(self.claims(now_s, **more), key, algorithm, headers={"kid": kid} | (header or {}))

    def forged(self, now_s: float) -> dict[str, str]:
        """Tokens that nobody may accept, by the name of the attack."""
        stranger, claims = Issuer(), self.claims(now_s)
        algorithm, key = stranger.keys["eddsa"]
        good = self.token(now_s).split(".")
        pem = self.keys["rs256"][1].public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )  # fmt: skip
        own_key = json.loads(stranger.jwks())["keys"][0]
        return {
            "another key under our key's id": stranger.token(now_s),
            "alg none": _unsigned({"alg": "none", "kid": "eddsa"}, claims),
            "alg none, in capitals": _unsigned({"alg": "NONE", "kid": "rs256"}, claims),
            "HS256 with the public key as secret": _hmac({"alg": "HS256", "kid": "rs256"}, claims, pem),
            "HS256 named as another": _hmac({"alg": "RS256", "kid": "rs256"}, claims, pem),
            "the key in the header": jwt.encode(claims, key, algorithm, headers={"kid": "eddsa", "jwk": own_key}),
            "the key's address in the header": jwt.encode(
                claims, key, algorithm, headers={"kid": "eddsa", "jku": "http://127.0.0.1:1/jwks"}),
            "a path as key id": jwt.encode(claims, key, algorithm, headers={"kid": "../../dev/null"}),
            "a statement as key id": jwt.encode(claims, key, algorithm, headers={"kid": "' OR 1=1 --"}),
            "no key id": jwt.encode(claims, self.keys["eddsa"][1], algorithm),
            "a number as key id": _unsigned({"alg": "EdDSA", "kid": 1}, claims),
            "the right key under another algorithm": _unsigned({"alg": "ES256", "kid": "eddsa"}, claims),
            "changed claims": ".".join([good[0], packed(json.dumps(claims | {"sub": "root"}).encode()), good[2]]),
            "no signature": ".".join([good[0], good[1], ""]),
            "another audience": self.token(now_s, aud="somebody-else"),
            "no audience": self.token(now_s, aud=None),
            "another issuer": self.token(now_s, iss="https://login.evil.example"),
            "no issuer": self.token(now_s, iss=None),
            "no end": self.token(now_s, exp=None),
            "an end that is a text": self.token(now_s, exp="tomorrow"),
            "an end that is true": self.token(now_s, exp=True),
            "an end beyond all numbers": self.token(now_s, exp=1e300),
            "nobody": self.token(now_s, sub=None),
            "claims that are a list": _signed(self.keys["eddsa"][1], {"alg": "EdDSA", "kid": "eddsa"}, b"[]"),
            "claims that are no JSON": _signed(self.keys["eddsa"][1], {"alg": "EdDSA", "kid": "eddsa"}, b"\xff"),
            "claims nested deeply": _signed(
                self.keys["eddsa"][1], {"alg": "EdDSA", "kid": "eddsa"}, b"[" * 5000 + b"]" * 5000),
            "a critical header": self.token(now_s, header={"crit": ["b64"], "b64": False}),
            "huge": self.token(now_s, more="x" * 20_000),
            "dots": "..", "more dots": "a.b.c.d.e", "no base64": "ä.ö.ü",
        }  # fmt: skip


def _head(header: dict[str, Any], body: bytes) -> str:
    return f"{packed(json.dumps(header).encode())}.{packed(body)}"


def _unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return _head(header, json.dumps(claims).encode()) + "."


def _hmac(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    text = _head(header, json.dumps(claims).encode())
    return f"{text}.{packed(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def _signed(key: Any, header: dict[str, Any], body: bytes) -> str:
    text = _head(header, body)
    return f"{text}.{packed(key.sign(text.encode()))}"


@contextmanager
def serving(issuer: Issuer) -> Iterator[str]:
    """The address of its JWKS."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.fetched += 1
            body = issuer.jwks().encode()
            self.send_response(issuer.status)
            if issuer.status in {301, 302}:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/jwks"
        server.shutdown()
        thread.join()
