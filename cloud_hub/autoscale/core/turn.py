"""One turn of a target: the policy's decision under a person's control, and its replay. Pure.

An override is a signal like any other: it asks for a count, and every limit of the policy still holds (A1 to A8).
A paused target decides nothing. A dry run decides, and remembers no step.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from cloud_hub.autoscale.core.policy import decide
from cloud_hub.autoscale.core.signals import Reading, SignalRule
from cloud_hub.autoscale.core.state import Decision, Observation, State
from cloud_hub.autoscale.core.target import Behavior, Prediction, ScaleToZero, TargetPolicy

Mode = Literal["auto", "paused", "override"]
OVERRIDE = "override"


class Control(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person said: `mode`, who and why. `count` goes with override. `dry_run` is the target's."""

    mode: Mode = "auto"
    count: int = 0
    actor: str = ""
    reason: str = ""
    dry_run: bool = False


def turn(
    policy: TargetPolicy, state: State, observation: Observation, control: Control, name: str
) -> tuple[Decision, State]:
    """The decision on target `name`, and the state to store with it before the platform is called."""
    if control.mode == "paused":
        held, state = decide(policy, state, msgspec.structs.replace(observation, fencing_token=None), name)
        why = f": {control.reason}" if control.reason else ""
        reason = f"paused by {control.actor}{why}"
        return msgspec.structs.replace(held, reason=reason, fencing_token=observation.fencing_token), state
    if control.mode == "override":
        policy, state, observation = overridden(policy, state, observation, control.count)
    decision, after = decide(policy, state, observation, name)
    return decision, _unstepped(state, after) if control.dry_run else after


def overridden(
    policy: TargetPolicy, state: State, observation: Observation, count: int
) -> tuple[TargetPolicy, State, Observation]:
    """The inputs with which the policy wants just `count`, within its limits."""
    rule = SignalRule(name=OVERRIDE, per_instance=1.0, target=1.0, unit="instances")
    policy = msgspec.structs.replace(
        policy, signals=(rule,), warm=0, prediction=Prediction(mode="never"),
        scale_out=_direct(policy.scale_out), scale_in=_direct(policy.scale_in),
        scale_to_zero=ScaleToZero(idle_s=0.0) if policy.scale_to_zero is not None else None,
    )  # fmt: skip
    reading = Reading(signal=OVERRIDE, value=float(count), t_us=observation.now_us, unit="instances")
    observation = msgspec.structs.replace(observation, readings=(reading,), outlook=None)
    return policy, msgspec.structs.replace(state, calm=None, wanted=()), observation


def _direct(behavior: Behavior) -> Behavior:
    return msgspec.structs.replace(behavior, stabilization_s=0.0, tolerance=0.0)


def _unstepped(before: State, after: State) -> State:
    """The state after a decision that was not carried out."""
    return msgspec.structs.replace(
        after, actions=before.actions, pending=before.pending, sequence=before.sequence, spend=before.spend
    )


# -- stored --------------------------------------------------------------------------------------------------


def text(value: msgspec.Struct) -> str:
    """A value as JSON text; `replay` reads it back."""
    return msgspec.json.encode(value).decode()


def digest(policy: TargetPolicy) -> str:
    """The name under which a policy is stored."""
    return hashlib.sha256(msgspec.json.encode(policy)).hexdigest()


class StoredInputs(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs of a stored decision, as JSON texts."""

    target: str
    policy: str
    state: str
    observation: str
    control: str


def replay(stored: StoredInputs) -> Decision:
    """The decision that these inputs lead to. Raises msgspec.ValidationError for what is none."""
    decision, _ = turn(
        msgspec.json.decode(stored.policy, type=TargetPolicy), msgspec.json.decode(stored.state, type=State),
        msgspec.json.decode(stored.observation, type=Observation), msgspec.json.decode(stored.control, type=Control),
        stored.target,
    )  # fmt: skip
    return decision
