"""HubError: what REST answers with. One handler in `api.problems` turns it into RFC 9457."""

from __future__ import annotations

from shared.errors import TidegateError


class HubError(TidegateError):
    """A request that cannot be served: `status` is the HTTP status, `detail` names the place and the cure.

    `more` are extension members of the problem (RFC 9457 section 3.2).
    """

    def __init__(self, status: int, title: str, detail: str, **more: str) -> None:
        super().__init__(f"{title}: {detail}")
        self.status, self.title, self.detail, self.extensions = status, title, detail, more


class BackupError(TidegateError):
    """A backup cannot be made, or is not what it should be; nothing was changed."""


class WrongToken(HubError):
    """What was sent as a token never was one: a guess, and counted as such."""

    def __init__(self, detail: str) -> None:
        super().__init__(401, "Not signed in", detail)
