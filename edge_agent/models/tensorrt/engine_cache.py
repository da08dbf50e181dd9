"""Engines that were built on this device, by model, version of TensorRT and device; and TensorRT's timing caches.

A file begins with the SHA-256 of the rest, so that half a file is built again and never loaded.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from shared.errors import ModelError

HASH_BYTES = 32
ROOM_FACTOR = 4
"""A build is started only if so many times the size of the model is free on the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """What an engine depends on. `model` is the SHA-256 of the model file."""

    model: str
    tensorrt: str
    device: str
    capability: str
    batch: int
    version_compatible: bool

    @property
    def stem(self) -> str:
        """Name of the file without its ending: the model first, so that its engines are found."""
        rest = hashlib.sha256(msgspec.json.encode(asdict(self))).hexdigest()
        return f"{self.model[:16]}-{rest[:16]}"

    @property
    def timing_stem(self) -> str:
        """The timing cache holds for all models."""
        rest = hashlib.sha256(f"{self.tensorrt} {self.device} {self.capability}".encode()).hexdigest()
        return f"timing-{rest[:16]}"


class EngineCache:
    """The folder `inference.cache_dir`."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def load(self, key: EngineKey) -> bytes | None:
        """The engine; None if it was not built, or its file is damaged."""
        return self._read(self._folder / f"{key.stem}.engine")

    def load_timing(self, key: EngineKey) -> bytes:
        """The timing cache, empty if there is none."""
        return self._read(self._folder / f"{key.timing_stem}.cache") or b""

    @staticmethod
    def _read(file: Path) -> bytes | None:
        try:
            content = file.read_bytes()
        except OSError:
            return None
        body = content[HASH_BYTES:]
        return body if body and hashlib.sha256(body).digest() == content[:HASH_BYTES] else None

    def check_room(self, model_bytes: int) -> None:
        """Raise ModelError before minutes are spent on an engine that cannot be stored."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise self._unwritable(self._folder, error) from error
        if free < ROOM_FACTOR * model_bytes:
            raise ModelError(
                f"{self._folder}: {free >> 20} MB are free, an engine needs about {ROOM_FACTOR * model_bytes >> 20}. "
                "Free space, or set inference.cache_dir to another disk"
            )

    def store(self, key: EngineKey, plan: bytes, timing: bytes) -> None:
        """Store an engine and remove those of the same model for other versions; raises ModelError."""
        file = self._folder / f"{key.stem}.engine"
        self._write(file, plan)
        for old in self._folder.glob(f"{key.stem.partition('-')[0]}-*.engine"):
            if old != file:
                old.unlink(missing_ok=True)
        if timing:
            self._write(self._folder / f"{key.timing_stem}.cache", timing)

    def _write(self, file: Path, body: bytes) -> None:
        """Write and rename, so that another process sees the whole file or none."""
        half = file.with_suffix(f".{os.getpid()}")
        try:
            with half.open("wb") as out:
                out.write(hashlib.sha256(body).digest())
                out.write(body)
                out.flush()
                os.fsync(out.fileno())
            half.replace(file)
        except OSError as error:
            half.unlink(missing_ok=True)
            raise self._unwritable(file, error) from error

    @staticmethod
    def _unwritable(file: Path, error: OSError) -> ModelError:
        return ModelError(
            f"{file} cannot be written ({error.strerror or error}). Free space, or set inference.cache_dir"
        )
