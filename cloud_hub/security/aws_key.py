"""Creates and reads the key from which the AWS secret of each token is derived.

Only a token's SHA-256 is stored, which cannot verify a signature; so the signing secret is derived from this key. The
key is created with the first secret.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from tempfile import NamedTemporaryFile

from shared.errors import ConfigError

BYTES = 32


def secret(key: bytes, key_id: str) -> str:
    """The secret access key that belongs to an access key id (a token's id)."""
    return hmac.new(key, key_id.encode(), hashlib.sha256).hexdigest()


def read(path: Path) -> bytes | None:
    """The key, or None if none was created yet; raises ConfigError."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror})", "Give it to the hub's user") from error
    if len(key) < BYTES:
        raise ConfigError(str(path), f"is shorter than {BYTES} bytes", "Put the right file back, or delete it")
    return key


def create(path: Path) -> bytes:
    """Create the key with mode 0600 unless it exists; safe against concurrent creators. Raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with NamedTemporaryFile(dir=path.parent) as file:
            file.write(secrets.token_bytes(BYTES))
            file.flush()
            os.fsync(file.fileno())
            os.link(file.name, path)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(str(path), f"cannot be made ({error.strerror})", "Set twins.aws_key_file") from error
    return read(path) or b""
