"""Asks through the running agent from another program on the device.

    from edge_agent.questions.local import ask

    answer = ask("/var/lib/tidegate-edge", InferenceRequest(id=new_id(), prompt="Is 7 mm/s at 1450 rpm normal?"))

The question goes through the agent's state store, so only the agent's user and root can ask; no port is opened.
"""

from __future__ import annotations

from pathlib import Path

from edge_agent import clock
from edge_agent.store.statestore import QUESTION
from edge_agent.twin.local_cli import submit_request, wait_for_answer
from shared.protocol.codec import from_plain, plain
from shared.protocol.messages import InferenceRequest, InferenceResponse

GRACE_S = 3.0
"""The agent looks once a second."""


def ask(state_dir: str | Path, request: InferenceRequest) -> InferenceResponse | None:
    """The answer or the refusal; None if no agent took the question, which it then refuses when it starts.

    Blocks until `request.deadline_s` and a little more. Raises TidegateError if the agent's store cannot be opened.
    """
    file = Path(state_dir) / "kept.sqlite"
    number = submit_request(file, QUESTION, {"asked_us": clock.now_us(), "request": plain(request)})
    stored = wait_for_answer(file, number, request.deadline_s + GRACE_S)
    return None if stored is None else from_plain(InferenceResponse, stored)
