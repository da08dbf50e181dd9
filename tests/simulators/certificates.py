"""A certificate authority in a folder, made with the openssl program as docs/broker.md does it by hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def certificates(folder: Path, *names: str) -> None:
    """`ca.pem`, and for each name `<name>.pem` and `<name>.key`, good for localhost; skips without openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    _openssl(folder, "req", "-x509", *_KEY, "-days", "2", "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1", "utf-8")
    for name in names:
        _openssl(folder, "req", *_KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        _openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                 "-days", "1", "-extfile", "san", "-out", f"{name}.pem")  # fmt: skip


def _openssl(folder: Path, *arguments: str) -> None:
    made = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
