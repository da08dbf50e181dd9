"""The exact-match response cache: least recently used out first, bounded in bytes, with an age limit.

An entry beyond its age is kept until its place is needed: it is the last resort while no engine answers.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

IGNORED = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
"""Fields of a body that do not change the answer."""
_CANONICAL = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """A complete response as it was sent, and who gave it."""

    content: bytes
    pool: str
    model: str
    stored_at: float


def cache_key(body: Mapping[str, Any], audience: tuple[str, ...] | None) -> bytes:
    """The key of a request: its body, and `audience`, because callers of other sites must not share answers."""
    relevant = {name: value for name, value in body.items() if name not in IGNORED}
    return hashlib.blake2b(_CANONICAL.encode([audience, relevant]), digest_size=20).digest()


def cacheable(body: Mapping[str, Any]) -> bool:
    """Whether the same request gets the same answer: greedy decoding of one choice."""
    return body.get("temperature") == 0 and body.get("n") in (None, 1)


class ResponseCache:
    """At most `max_bytes` of responses; fresh for `ttl_s`."""

    def __init__(self, *, max_bytes: int, ttl_s: float) -> None:
        self._max_bytes, self._ttl_s = max_bytes, ttl_s
        self._entries: OrderedDict[bytes, CachedResponse] = OrderedDict()
        self.size = 0

    def get(self, key: bytes, now: float, *, stale: bool = False) -> CachedResponse | None:
        """The response, if it is fresh or `stale` ones are wanted too."""
        entry = self._entries.get(key)
        if entry is None or (not stale and now - entry.stored_at >= self._ttl_s):
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, entry: CachedResponse) -> None:
        """Store a response; one that is larger than an eighth of the cache is not stored."""
        if len(entry.content) > self._max_bytes // 8:
            return
        self._discard(key)
        self._entries[key] = entry
        self.size += len(entry.content)
        while self.size > self._max_bytes:
            self._discard(next(iter(self._entries)))

    def __len__(self) -> int:
        return len(self._entries)

    def _discard(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        self.size -= len(entry.content) if entry else 0
