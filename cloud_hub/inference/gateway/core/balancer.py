"""Chooses an address of a pool: sticky by prefix, unless another address has much less to do.

Requests that begin alike go to one address (rendezvous hashing), where the engine's prefix cache holds the beginning.
Load is counted in outstanding tokens, because requests differ in size more than in number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

SLACK_TOKENS = 4096
"""How many more outstanding tokens the sticky address may have than the least loaded one."""


class Balancer:
    """The outstanding tokens of each address."""

    def __init__(self, addresses: Collection[str]) -> None:
        self.outstanding = dict.fromkeys(addresses, 0)

    def choose(self, prefix: bytes, usable: Collection[str]) -> str | None:
        """The address for a request that begins with `prefix`; None if none is usable."""
        if not usable:
            return None
        ranked = sorted(usable, key=lambda address: _weight(prefix, address), reverse=True)
        least = min(ranked, key=lambda address: self.outstanding[address])
        home = ranked[0]
        return home if self.outstanding[home] <= self.outstanding[least] + SLACK_TOKENS else least

    def started(self, address: str, tokens: int) -> None:
        """Count a request that is sent."""
        self.outstanding[address] += tokens

    def finished(self, address: str, tokens: int) -> None:
        """Count a request that ended; `tokens` as in `started`."""
        self.outstanding[address] -= tokens


def _weight(prefix: bytes, address: str) -> bytes:
    return hashlib.blake2b(prefix + b"\0" + address.encode(), digest_size=8).digest()
