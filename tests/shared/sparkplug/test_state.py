"""STATE messages of host applications."""

from __future__ import annotations

import json

import pytest

from shared.errors import WireError
from shared.sparkplug import state
from shared.sparkplug.state import HostState


def test_state_has_exactly_online_and_timestamp() -> None:
    encoded = state.encode(HostState(online=True, timestamp=1_700_000_000_123))
    assert json.loads(encoded) == {"online": True, "timestamp": 1_700_000_000_123}
    assert state.parse(encoded) == HostState(online=True, timestamp=1_700_000_000_123)


def test_further_keys_are_ignored() -> None:
    assert state.parse(b'{"online":false,"timestamp":5,"bdSeq":3}') == HostState(online=False, timestamp=5)


@pytest.mark.parametrize(
    "payload",
    [
        b"ONLINE", b"OFFLINE", b"", b"null", b"[]", b'{"online":true}', b'{"timestamp":1}',
        b'{"online":1,"timestamp":1}',
        b'{"online":true,"timestamp":"1"}', b'{"online":true,"timestamp":1.5}', b'{"online":true,"timestamp":-1}',
        b'{"online":true,"timestamp":999999999999999999999999}', b'{"online":true,"timestamp":253402300800000}',
        b"\xff\xfe", b"[" * 4000, b" " * 5000,
    ],
)  # fmt: skip
def test_what_is_no_state_of_sparkplug_3_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        state.parse(payload)
