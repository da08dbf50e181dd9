"""The error of a build: what cannot be turned into a bundle, with place and cure."""

from __future__ import annotations

from shared.errors import ModelError


class BuildError(ModelError):
    """A file or a setting of a build is wrong: `place` names which one, `cure` says what to do."""

    def __init__(self, place: str, reason: str, cure: str) -> None:
        super().__init__(f"{place}: {reason}. {cure}")
        self.place, self.reason, self.cure = place, reason, cure
