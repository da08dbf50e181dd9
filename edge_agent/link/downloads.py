"""Downloads content referenced by a twin from the hub's REST API, in its own thread, with retries."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.backoff import Backoff
from shared.errors import NotReady, TidegateError
from shared.protocol.content_reference import Reference

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ed25519

log = logging.getLogger(__name__)

Answer = Callable[[bytes, str], None]


class Downloader:
    """`where()` returns (URL of the hub's REST API, file of its CA); `post` runs a task in the agent's thread."""

    def __init__(
        self, where: Callable[[], tuple[str, str]], signing: ed25519.Ed25519PublicKey | None,
        post: Callable[[Callable[[], None]], None],
    ) -> None:  # fmt: skip
        self._where, self._signing, self._post = where, signing, post
        self._stop = threading.Event()

    def fetch(self, reference: Reference, answer: Answer) -> None:
        """Start a download; `answer` is called in the agent's thread. An earlier download is cancelled."""
        self._stop.set()
        self._stop = stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(reference, answer, stop), name="fetch", daemon=True)
        thread.start()

    def stop(self) -> None:
        """Cancel the download without waiting for it."""
        self._stop.set()

    def _run(self, reference: Reference, answer: Answer, stop: threading.Event) -> None:
        backoff = Backoff(1.0, 300.0, random.random)
        while not stop.is_set():
            content, reason = b"", ""
            try:
                content = get(*self._where(), self._signing, reference)
            except NotReady as error:
                log.warning("fetch.not_ready", extra={"fields": {"reason": error.reason}})
                stop.wait(backoff.wait())
                continue
            except TidegateError as error:
                reason = str(error)
            if not stop.is_set():
                self._post(lambda content=content, reason=reason: answer(content, reason))  # type: ignore[misc]
            return


def get(url: str, ca: str, signing: ed25519.Ed25519PublicKey | None, reference: Reference) -> bytes:
    """The downloaded bytes, not verified. Raises NotReady, or another TidegateError for which a retry is useless.

    An enrolled device first verifies the hub's time; another one uses its own clock and the CA of its link.
    """
    import http.client  # noqa: PLC0415 - with `est` 10 MB, and seldom needed
    import ssl  # noqa: PLC0415

    from edge_agent.link import est  # noqa: PLC0415

    if not url:
        raise est.EnrolmentRefused(0, "this device does not know where the hub's REST is: enrol it, or set link.rest")
    if signing is not None:
        with est.connect(url, ca, signing) as (hub, _):
            hub.max_bytes = reference.size + 1
            return hub.request("GET", reference.path)[0]
    connection = est.connection_to(url, ca, own_clock=True)
    try:
        connection.connect()
        hub = est.HubClient(connection)
        hub.max_bytes = reference.size + 1
        return hub.request("GET", reference.path)[0]
    except (OSError, ssl.SSLError, http.client.HTTPException) as error:
        raise NotReady(f"{url}: {type(error).__name__}: {error}", 10.0) from error
    finally:
        connection.close()
