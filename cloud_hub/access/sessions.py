"""Sessions of the operator pages: a browser's cookie stands for the token that a person signed in with.

A session holds no rights of its own. The token is read again at each request, so its end or revocation ends the session
at the next click. Sessions live in memory: a restart of the hub ends them all. Their ids are stored as SHA-256, so a
memory dump gives no cookie.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cloud_hub.errors import HubError

MAX_SESSIONS = 1000
"""The session that was used longest ago ends when there are more."""
LONGEST_US = 12 * 3600 * 1_000_000
"""A session ends after this time even if it is used."""
MAX_STREAMS, STREAMS_EACH = 64, 6
"""Open event streams: of all sessions, and of one (browsers open at most six connections to a host)."""


@dataclass(slots=True, kw_only=True)
class BrowserSession:
    """A session: the SHA-256 of its token, its CSRF token, and when it began and was last used."""

    token_digest: str
    csrf: str
    began_us: int
    used_us: int
    streams: int = 0


class SessionStore:
    """The sessions of a hub. Used by several threads."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, BrowserSession] = OrderedDict()
        self._lock = threading.Lock()
        self._streams = 0

    def begin(self, token_digest: str, now_us: int) -> str:
        """Begin a session and return its id, the value of the cookie."""
        session_id = secrets.token_urlsafe(32)
        session = BrowserSession(
            token_digest=token_digest, csrf=secrets.token_urlsafe(32), began_us=now_us, used_us=now_us
        )
        with self._lock:
            self._sessions[_key(session_id)] = session
            if len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return session_id

    def get(self, session_id: str, now_us: int, idle_s: float, *, use: bool = True) -> BrowserSession:
        """The session; HubError 401 if there is none or it has ended. `use` counts as activity of the person."""
        key = _key(session_id)
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                raise HubError(401, "Not signed in", "sign in with a token of the hub")
            if now_us - session.used_us > idle_s * 1e6 or now_us - session.began_us > LONGEST_US:
                del self._sessions[key]
                raise HubError(401, "Session ended", "sign in again: the session was idle, or twelve hours old")
            if use:
                session.used_us = now_us
                self._sessions.move_to_end(key)
            return session

    def end(self, session_id: str) -> None:
        """End a session, if there is one."""
        with self._lock:
            self._sessions.pop(_key(session_id), None)

    @property
    def open_streams(self) -> int:
        """Open event streams of all sessions."""
        return self._streams

    @contextmanager
    def stream(self, session: BrowserSession) -> Iterator[None]:
        """A place for one event stream; HubError 503 if the session, or the hub, has too many open."""
        with self._lock:
            if session.streams >= STREAMS_EACH or self._streams >= MAX_STREAMS:
                raise HubError(503, "Too many streams", "the page asks again by itself", retry_after_s="15")
            session.streams += 1
            self._streams += 1
        try:
            yield
        finally:
            with self._lock:
                session.streams -= 1
                self._streams -= 1


def _key(session_id: str) -> str:
    return hashlib.sha256(session_id.encode("utf-8", "replace")).hexdigest()
