"""The key that AWS secrets are derived from: made once, readable by its owner alone, one for all who make it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cloud_hub.security import aws_key
from shared.errors import ConfigError


def test_made_once_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "state" / "aws.key"
    assert aws_key.read(path) is None
    key = aws_key.create(path)
    assert len(key) == aws_key.BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert aws_key.create(path) == aws_key.read(path) == key
    assert list(path.parent.iterdir()) == [path], "nothing is left beside it"


def test_two_makers_end_with_one_key(tmp_path: Path) -> None:
    made: list[bytes] = []
    threads = [threading.Thread(target=lambda: made.append(aws_key.create(tmp_path / "aws.key"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(made) == 8
    assert len(set(made)) == 1


def test_a_secret_belongs_to_its_key_and_id() -> None:
    """RFC 4231, test case 2, and no two alike."""
    wanted = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert aws_key.secret(b"Jefe", "what do ya want for nothing?") == wanted
    assert len({aws_key.secret(key, key_id) for key in (b"1" * 32, b"2" * 32) for key_id in ("a", "b")}) == 4


def test_a_broken_key_is_told(tmp_path: Path) -> None:
    short = tmp_path / "aws.key"
    short.write_bytes(b"x" * 31)
    for path, says in ((short, "shorter than 32 bytes"), (tmp_path, "cannot be read")):
        with pytest.raises(ConfigError, match=says):
            aws_key.read(path)
    with pytest.raises(ConfigError, match="cannot be made"):
        aws_key.create(short / "below" / "a-file")
