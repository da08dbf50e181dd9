"""The REST client of subcommands, with its options and exit codes."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import ConfigError, TidegateError

if TYPE_CHECKING:
    import httpx

URL = "http://127.0.0.1:8080"

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_FORBIDDEN = 3
EXIT_NOT_FOUND = 4
EXIT_NO_ANSWER = 5
EXIT_CONFLICT = 6

_EXIT = {
    400: EXIT_USAGE, 413: EXIT_USAGE, 422: EXIT_USAGE, 401: EXIT_FORBIDDEN, 403: EXIT_FORBIDDEN, 404: EXIT_NOT_FOUND,
    504: EXIT_NO_ANSWER, 409: EXIT_CONFLICT, 412: EXIT_CONFLICT, 428: EXIT_CONFLICT,
}  # fmt: skip

_ADDRESS = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]+)?(/|\Z)|https?://\[[0-9a-fA-F:.]+\](:[0-9]+)?(/|\Z)")
_TOKEN = re.compile(r"[!-~]+\Z")


class RemoteError(TidegateError):
    """The hub refused or did not answer. `exit_code` is for the process; `problem` is the RFC 9457 body, or {}."""

    def __init__(self, text: str, exit_code: int, problem: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.exit_code, self.problem = exit_code, problem or {}


def options() -> argparse.ArgumentParser:
    """A parent parser with the options of remote subcommands: --url and --token-file."""
    parent = argparse.ArgumentParser(add_help=False)
    group = parent.add_argument_group("the hub")
    group.add_argument("--url", help=f"URL of the hub (default: TIDEGATE_URL, or {URL})")
    group.add_argument("--token-file", type=Path, help="file with the REST token (default: TIDEGATE_TOKEN holds it)")
    return parent


class Remote:
    """A REST client of a hub; a context manager. Errors are raised as RemoteError."""

    def __init__(self, url: str, token: str) -> None:
        import httpx  # noqa: PLC0415

        if not _ADDRESS.match(url):
            raise ConfigError("--url", f"'{url}' is not an address", "Write for example: --url http://10.0.0.5:8080")
        if not _TOKEN.match(token):
            raise ConfigError("token", "is not a hub token", "Tokens start with tg_ and contain no space")
        self.url = url
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"})

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def request(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None,
        timeout_s: float = 30.0, **query: Any,
    ) -> httpx.Response:  # fmt: skip
        """Send a request below /api/v1, without query parameters that are None; returns a 2xx response."""
        import httpx  # noqa: PLC0415

        asked = {key: value for key, value in query.items() if value is not None}
        try:
            answer = self._http.request(
                method, f"/api/v1{path}", json=body, params=asked, headers=headers, timeout=timeout_s
            )
        except httpx.TimeoutException as error:
            raise RemoteError(f"{self.url} did not answer within {timeout_s:g} s", EXIT_NO_ANSWER) from error
        except httpx.TransportError as error:
            text = f"no hub at {self.url} ({error}). Is it running? Give its address with --url or TIDEGATE_URL"
            raise RemoteError(text, EXIT_NO_ANSWER) from error
        if not answer.is_success:
            raise _refused(answer)
        return answer

    def download(self, path: str, take: Callable[[bytes], object], timeout_s: float = 300.0, **query: Any) -> None:
        """GET something large: `take` is given its pieces; `timeout_s` bounds the wait for each."""
        import httpx  # noqa: PLC0415

        asked = {key: value for key, value in query.items() if value is not None}
        try:
            with self._http.stream("GET", f"/api/v1{path}", params=asked, timeout=timeout_s) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _refused(answer)
                for piece in answer.iter_bytes():
                    take(piece)
        except httpx.TransportError as error:
            raise RemoteError(f"{self.url} did not send all of it ({error})", EXIT_NO_ANSWER) from error

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """As `request`; returns the decoded JSON."""
        return self.request(method, path, body, **more).json()

    def get(self, path: str, **query: Any) -> Any:
        """GET; returns the decoded JSON."""
        return self.call("GET", path, None, **query)


def _refused(answer: httpx.Response) -> RemoteError:
    """The error for a problem+json response."""
    try:
        problem = answer.json()
        text = f"{problem['title']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return RemoteError(f"HTTP {answer.status_code}: this is not an answer of a Tidegate hub", EXIT_FAILED)
    return RemoteError(text, _EXIT.get(answer.status_code, EXIT_FAILED), problem)


def connect(arguments: argparse.Namespace) -> Remote:
    """Connect to the hub that `options` name; raises ConfigError if there is no token."""
    return Remote(arguments.url or os.environ.get("TIDEGATE_URL") or URL, _token(arguments.token_file))


def _token(file: Path | None) -> str:
    if file is None:
        token = os.environ.get("TIDEGATE_TOKEN", "")
    else:
        try:
            token = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("--token-file", f"cannot be read ({error})", "Check path and owner") from error
    if not token.strip():
        cure = "Make one with `tidegate-hub token create` and give it with --token-file FILE or TIDEGATE_TOKEN"
        raise ConfigError("token", "there is none", cure)
    return token.strip()
