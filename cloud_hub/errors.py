"""Defines the errors that REST answers with. `api.problems` turns them into RFC 9457 problems."""

from __future__ import annotations

from shared.errors import TidegateError


class HubError(TidegateError):
    """A request that cannot be served. `status` is the HTTP status; `detail` names the place and the remedy.

    `extensions` are extension members of the problem (RFC 9457 section 3.2).
    """

    def __init__(self, status: int, title: str, detail: str, **extensions: str) -> None:
        super().__init__(f"{title}: {detail}")
        self.status, self.title, self.detail, self.extensions = status, title, detail, extensions


class BackupError(TidegateError):
    """A backup cannot be created or is invalid. Nothing was changed."""


class WrongToken(HubError):
    """The token is unknown or malformed. It counts as a guess (see `access.lockout`)."""

    def __init__(self, detail: str) -> None:
        super().__init__(401, "Not signed in", detail)
