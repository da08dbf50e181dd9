"""Connection settings of a Prometheus: URL, bearer or basic credentials from files, CA. Redirects are not followed."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from cloud_hub.security import secret_files
from shared.errors import ConfigError

LOCAL = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusConnection:
    """`url` is the base URL below which /api/v1 is. Files are read once; errors never contain their content."""

    url: str
    token_file: Path | None = None
    user: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        place, parts = "--prometheus", urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                place, f"'{self.url}' is no address", "Write for example: --prometheus http://10.0.0.5:9090"
            )
        if parts.username or parts.password:
            raise ConfigError(place, "must hold no password", "Use --user and --password-file")
        if bool(self.user) != bool(self.password_file) or (self.user and self.token_file):
            raise ConfigError(place, "needs one way to sign in", "Give --token-file, or --user with --password-file")
        if (self.user or self.token_file) and parts.scheme == "http" and parts.hostname not in LOCAL:
            raise ConfigError(place, "would carry the secret readable to everyone", "Use https where one is sent")

    def open(self) -> httpx.Client:
        """An authenticated HTTP client; raises ConfigError for a file that cannot be read."""
        headers = (
            {"Authorization": f"Bearer {secret_files.read('--token-file', self.token_file)}"} if self.token_file else {}
        )
        auth = (
            httpx.BasicAuth(self.user, secret_files.read("--password-file", self.password_file))
            if self.password_file
            else None
        )
        return httpx.Client(
            verify=self._trust(), headers=headers, auth=auth, timeout=self.timeout_s + 5, trust_env=False
        )

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError("--ca-file", f"cannot be used ({error})", "Name a readable PEM file") from error
