"""Reads and writes secret files. Settings hold the paths; secrets appear in no error."""

from __future__ import annotations

import os
from pathlib import Path

from shared.errors import ConfigError


def read(place: str, path: str | Path) -> str:
    """The secret in the file that the setting `place` names; raises ConfigError, which does not show it."""
    try:
        text = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is no text"  # its message could contain the secret
        raise ConfigError(place, f"'{path}' cannot be read ({why})", "Check path and owner") from None
    if not text or not text.isprintable():
        raise ConfigError(place, f"'{path}' holds no secret", "Put nothing but the secret there, on one line")
    return text


def write(path: Path, secret: str, *, new: bool = True) -> None:
    """Write the secret with mode 0600. `new` refuses an existing file; raises ConfigError."""
    fresh = os.O_EXCL if new else os.O_TRUNC
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | fresh, 0o600), "w", encoding="utf-8") as out:
            os.fchmod(out.fileno(), 0o600)
            out.write(f"{secret}\n")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be written ({error.strerror})", "Give the name of a new file") from error
