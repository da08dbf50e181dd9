"""What is not believed is not done, is told to who asks, and leaves no trace that the real command would meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_agent.commands.service import Commands
from edge_agent.commands.sync import CommandSync
from edge_agent.store.statestore import StateStore
from shared.protocol.codec import encode
from shared.protocol.messages import CommandCancel, CommandRequest, CommandResult
from shared.transport.mqtt import Inbound

NOW = 1_800_000_000_000_000


def inbound(message: Any, signature: str) -> Inbound:
    kind = "request" if isinstance(message, CommandRequest) else "cancel"
    topic = f"tidegate/v1/things/press-3/commands/{message.id}/{kind}"
    return Inbound(topic=topic, payload=encode(message), traceparent="", acknowledge=lambda: None, signature=signature)


def test_only_what_is_believed_is_done_and_its_expiry_is_by_the_hubs_time(tmp_path: Path) -> None:
    keep, done, said = StateStore(tmp_path / "kept.sqlite"), [], []  # type: ignore[var-annotated]
    verbs = {("restart", "x"): lambda request: done.append(request.id) or {}}
    link = CommandSync(
        Commands(keep, verbs), lambda rest, word, **_: said.append(word) or True,  # type: ignore[arg-type]
        lambda one: "" if one.signature == "good" else "it is not signed", lambda: (NOW, "synced"),
    )  # fmt: skip

    def receive(message: Any, signature: str) -> CommandResult | None:
        said.clear()
        kind = "request" if isinstance(message, CommandRequest) else "cancel"
        link.received(f"commands/{message.id}/{kind}", inbound(message, signature))
        return said[-1] if said else None

    real = CommandRequest(id="c1", verb="restart", target="x", expires_us=NOW + 1)
    word = receive(real, "forged")
    assert word
    assert (word.state, word.text, done) == ("refused", "it is not signed", [])
    assert receive(CommandCancel(id="c1", expires_us=NOW + 1), "") is None, "a forged cancel ends nothing"
    for _ in range(2):  # the second one is a replay
        word = receive(real, "good")
        assert word
        assert (word.state, done) == ("succeeded", ["c1"])
    old = receive(CommandRequest(id="c2", verb="restart", target="x", expires_us=NOW - 1), "good")
    assert old
    assert (old.state, done) == ("expired", ["c1"])
    keep.close()
