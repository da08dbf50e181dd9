"""Decides how many instances a target has. Pure: `decide` is a function of policy, state and observation.

See `state.py` for the shell's turn. The rules A1 to A9 of a decision are named where they are kept.
"""

from __future__ import annotations

from cloud_hub.autoscale.core.signals import Reading, SignalRule
from cloud_hub.autoscale.core.state import Candidate, Decision, Observation, Outcome, Outlook, State
from cloud_hub.autoscale.core.target import TargetPolicy

__all__ = [
    "Candidate", "Decision", "Observation", "Outcome", "Outlook", "Reading", "SignalRule", "State", "TargetPolicy",
    "decide", "record_outcome",
]  # fmt: skip


def decide(policy: TargetPolicy, state: State, observation: Observation, name: str = "") -> tuple[Decision, State]:
    """The decision at `observation.now_us`, and the state to store with it before the platform is called.

    `name` is the target's; with it the idempotency keys of several targets differ.
    """
    raise NotImplementedError


def record_outcome(state: State, key: str, outcome: Outcome) -> State:
    """The state after the call with `key` ended. `unknown` (a time-out) keeps it pending, to be read back."""
    if state.pending is None or state.pending.key != key or outcome == "unknown":
        return state
    raise NotImplementedError
