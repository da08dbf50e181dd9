"""Validates OpenID Connect bearer tokens with the issuer's published keys (JWKS).

Only asymmetric signatures are accepted, one algorithm for each key type. A key is found by its id and never taken from
the token. Keys are fetched when an unknown key id arrives, at most once in FETCH_EVERY_S, and when they are older than
MAX_AGE_S.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt

from cloud_hub.database import scopes
from cloud_hub.errors import HubError, WrongToken
from cloud_hub.security.core import roles
from cloud_hub.security.core.roles import Identity, Scope
from cloud_hub.settings import Oidc as OidcSettings
from cloud_hub.twins.core.owners import PERSON
from shared.errors import ConfigError

log = logging.getLogger(__name__)

ALGORITHMS = {("OKP", "Ed25519"): "EdDSA", ("EC", "P-256"): "ES256", ("RSA", None): "RS256"}
FACTORS = ("acr", "amr", "acrs")
"""Claims with the authentication methods: those of OpenID Connect, and that of Microsoft Entra."""
MAX_TOKEN = 16_384
MAX_JWKS = 1_000_000
MAX_NAME = 200
MIN_RSA_BITS = 2048
FETCH_EVERY_S = 30.0
MAX_AGE_S = 3600.0
TIMEOUT_S = 5.0
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}

Keys = dict[str, tuple[str, Any]]
"""Key id to (algorithm, key)."""


class Oidc:
    """One issuer. `fetch` returns the text of its JWKS. Raises ConfigError for invalid settings."""

    def __init__(
        self,
        settings: OidcSettings,
        fetch: Callable[[], str] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._clock_s, self._fetch = clock_s, fetch or (lambda: _download(settings.jwks_url))
        self._keys: Keys = {}
        self._asked_s, self._fresh_s = -math.inf, -math.inf
        self._fetching = threading.Lock()
        for value, names in settings.roles.items():
            try:
                roles.format_roles(names.split())
            except ValueError as error:
                raise ConfigError(f"oidc.roles.{value}", str(error), "see docs/rest.md") from error
        if bool(settings.jwks_file) == bool(settings.jwks_url):
            raise ConfigError("oidc", "gives no keys, or two places", "Set one of jwks_file and jwks_url")
        if settings.jwks_file:
            self._keys = _from_file(settings.jwks_file)
        else:
            _safe(settings.jwks_url)

    def identity(self, text: str, now_us: int) -> Identity:
        """The identity in this token.

        Raises HubError 401 if it is invalid (WrongToken if the issuer did not sign it), 403 without a role or a scope.
        """
        claims = self._claims(text)
        self._check_times(claims, now_us / 1e6)
        return Identity(
            actor=PERSON + self._name(claims), roles=self._roles(claims), scope=self._scope(claims),
            second_factor=any(not _texts(claims.get(name)).isdisjoint(self.settings.mfa) for name in FACTORS),
        )  # fmt: skip

    # -- the signature

    def _claims(self, text: str) -> dict[str, Any]:
        if len(text) > MAX_TOKEN:
            raise WrongToken(f"the token has more than {MAX_TOKEN} characters")
        try:
            header = jwt.get_unverified_header(text)
            algorithm, key = self._key(header.get("kid"))
            claims: dict[str, Any] = jwt.decode(
                text, key, algorithms=[algorithm], audience=self.settings.audience, issuer=self.settings.issuer,
                options={"require": ["exp", "iss", "aud", "sub"], "verify_exp": False, "verify_nbf": False,
                         "verify_iat": False},
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise WrongToken(f"the token is none of {self.settings.issuer} for this hub ({_brief(error)})") from error
        return claims

    def _key(self, kid: Any) -> tuple[str, Any]:
        if not isinstance(kid, str):
            raise WrongToken("the token names no key")
        stale = self._clock_s() - self._fresh_s > MAX_AGE_S
        if self.settings.jwks_url and (kid not in self._keys or stale):
            self._refresh()
        if kid not in self._keys:
            if not self._keys:
                raise HubError(503, "Not ready", "the keys of the OIDC issuer cannot be fetched; see the hub's log")
            raise WrongToken("the token is signed by a key that the issuer does not publish")
        return self._keys[kid]

    def _refresh(self) -> None:
        """Fetch the keys, unless tried within FETCH_EVERY_S. Other threads use the old keys meanwhile."""
        if not self._fetching.acquire(blocking=not self._keys):
            return
        try:
            if self._clock_s() - self._asked_s < FETCH_EVERY_S:
                return
            self._asked_s = self._clock_s()
            self._keys = parse_jwks(self._fetch())
            self._fresh_s = self._clock_s()
        except (httpx.HTTPError, ValueError) as error:
            log.warning("oidc.no_keys", extra={"fields": {"url": self.settings.jwks_url, "reason": str(error)[:300]}})
        finally:
            self._fetching.release()

    # -- the claims

    def _check_times(self, claims: dict[str, Any], now_s: float) -> None:
        leeway = self.settings.leeway_s
        ends, begins = _seconds(claims["exp"]), _seconds(claims.get("nbf", 0))
        if now_s >= ends + leeway:
            raise HubError(401, "Not signed in", "the token has expired: sign in again")
        if now_s < begins - leeway:
            raise HubError(401, "Not signed in", "the token is not valid yet: compare the clocks of issuer and hub")

    def _name(self, claims: dict[str, Any]) -> str:
        name = _at(claims, self.settings.actor_claim)
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            detail = f"claim {self.settings.actor_claim} is no name of 1 to {MAX_NAME} printable characters"
            raise HubError(401, "Not signed in", detail)
        return name

    def _roles(self, claims: dict[str, Any]) -> str:
        given = _texts(_at(claims, self.settings.roles_claim))
        found = roles.format_roles([one for value in given for one in self.settings.roles.get(value, "").split()])
        if not found:
            detail = f"claim {self.settings.roles_claim} holds no value that [oidc.roles] gives a role"
            raise HubError(403, "No role", detail)
        return found

    def _scope(self, claims: dict[str, Any]) -> Scope:
        if not self.settings.scope_claim:
            return None
        given = _texts(_at(claims, self.settings.scope_claim))
        try:
            paths = tuple(sorted(scopes.validate_path(one) for one in given))
        except ValueError as error:
            raise HubError(403, "No scope", f"claim {self.settings.scope_claim}: {error}") from error
        if not paths:
            raise HubError(403, "No scope", f"claim {self.settings.scope_claim} holds no asset path")
        return paths


def _brief(error: Exception) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in str(error))[:200]


def _at(claims: dict[str, Any], name: str) -> Any:
    """A claim by its name, or by a path such as `realm_access.roles`."""
    value: Any = claims
    for part in [name] if name in claims else name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _texts(value: Any) -> set[str]:
    """The strings of a claim that is a string or a list."""
    return {item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)}


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e12:
        raise WrongToken("exp and nbf must be seconds since 1970")
    return float(value)


# -- keys ------------------------------------------------------------------------------------------


def parse_jwks(text: str) -> Keys:
    """The usable keys of a JWKS; others are skipped. ValueError if there is none."""
    try:
        listed = json.loads(text)["keys"]
        found = dict(one for row in listed if isinstance(row, dict) and (one := _usable(row)))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("is no JSON Web Key Set") from error
    if not found:
        raise ValueError("holds no signing key with an id that is Ed25519, P-256 or RSA of 2048 bits or more")
    return found


def _usable(row: dict[str, Any]) -> tuple[str, tuple[str, Any]] | None:
    kind, kid = row.get("kty"), row.get("kid")
    algorithm = ALGORITHMS.get((str(kind), None if kind == "RSA" else str(row.get("crv"))))
    if algorithm is None or not isinstance(kid, str) or row.get("use", "sig") != "sig":
        return None
    if row.get("alg", algorithm) != algorithm:
        return None
    try:
        key = jwt.PyJWK.from_dict({**row, "alg": algorithm}).key
    except jwt.PyJWTError:
        return None
    if kind == "RSA" and key.key_size < MIN_RSA_BITS:
        return None
    return kid, (algorithm, key)


def _from_file(path: str) -> Keys:
    try:
        return parse_jwks(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError("oidc.jwks_file", f"cannot be read ({error.strerror})", "Give the issuer's JWKS") from error
    except ValueError as error:
        raise ConfigError("oidc.jwks_file", str(error), "Give the issuer's JWKS") from error


def _safe(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ConfigError("oidc.jwks_url", f"'{url[:200]}' is not https", "Keys over plain HTTP can be exchanged")


def _download(url: str) -> str:
    """Download the JWKS: no redirects, at most MAX_JWKS bytes."""
    body = b""
    with httpx.stream("GET", url, timeout=TIMEOUT_S, follow_redirects=False) as answer:
        if answer.status_code != 200:
            raise ValueError(f"the issuer answered {answer.status_code}")
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > MAX_JWKS:
                raise ValueError(f"the issuer's keys are larger than {MAX_JWKS} bytes")
    return body.decode("utf-8")
