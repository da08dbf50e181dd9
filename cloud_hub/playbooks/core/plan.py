"""Makes the plan of one run: sub-playbooks and parameters put in, so that each action is known before the run begins.

A plan never changes, whatever becomes of the files. A sub-playbook `check` becomes the steps `check/...`, between the
joins `check/` and `check`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from cloud_hub.playbooks.core.conditions import needs_device
from cloud_hub.playbooks.core.problems import PlaybookError, Problem
from cloud_hub.playbooks.core.spec import MAX_STEPS, MAX_TEXT, OnFailure, Playbook, Step, Wait, fits, seconds

MAX_DEPTH = 3
"""Playbooks within each other."""
MAX_VALUE = 1000
"""Characters of a text parameter."""

_REFERENCE = re.compile(r"\$\{([a-z0-9_-]+)\}")

Values = dict[str, Any]
Load = Callable[[str], Playbook]


class PlanStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step with everything filled in. `subject` is the device that its conditions read; `scope` is where they look
    up steps and parameters: '' or the sub-playbook, such as `check/`.
    """

    id: str
    kind: Literal["action", "wait", "join"]
    title: str = ""
    needs: tuple[str, ...] = ()
    when: str = ""
    scope: str = ""
    subject: str = ""
    action: str = ""
    device: str = ""
    parameters: dict[str, Any] = {}
    wait_s: float = 0.0
    until: str = ""
    every_s: float = 1.0
    rounds: int = 1
    retries: int = 0
    retry_s: float = 10.0
    on_failure: OnFailure = "stop"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one run does. `version` is a digest of everything in it; `parameters` are by scope."""

    playbook: str
    deadline_s: float
    parameters: dict[str, Values]
    steps: list[PlanStep]
    version: str = ""

    def graph(self) -> dict[str, tuple[str, ...]]:
        """Each step with those that it needs."""
        return {step.id: step.needs for step in self.steps}


def make(playbook: Playbook, values: Mapping[str, Any], load: Load) -> Plan:
    """The plan of a run with these parameters; `load` gives sub-playbooks by name. Raises PlaybookError."""
    builder = _Builder(load)
    builder.add(playbook, values, "", "", (playbook.name,))
    plan = Plan(playbook=playbook.name, deadline_s=playbook.deadline_s, parameters=builder.parameters,
                steps=builder.steps)  # fmt: skip
    digest = hashlib.sha256(msgspec.json.encode(plan, order="deterministic")).hexdigest()
    return msgspec.structs.replace(plan, version=digest[:16])


class _Builder:
    def __init__(self, load: Load) -> None:
        self._load = load
        self.steps: list[PlanStep] = []
        self.parameters: dict[str, Values] = {}

    def add(self, playbook: Playbook, given: Mapping[str, Any], scope: str, start: str, path: tuple[str, ...]) -> None:
        """The steps of a playbook; those without needs wait for `start`."""
        values = self.parameters[scope] = _bound(playbook, given)
        for name, step in playbook.steps.items():
            needs = tuple(scope + need for need in step.needs) or ((start,) if start else ())
            if step.playbook is not None:
                self._sub(playbook, name, step, needs, scope, path)
            else:
                self._append(_plan_step(playbook, name, step, needs, scope, values))

    def _append(self, step: PlanStep) -> None:
        self.steps.append(step)
        if len(self.steps) > MAX_STEPS:
            raise _error(step.id, f"the run has more than {MAX_STEPS} steps", "Use fewer sub-playbooks")

    def _sub(
        self, playbook: Playbook, name: str, step: Step, needs: tuple[str, ...], scope: str, path: tuple[str, ...]
    ) -> None:
        called = str(step.playbook)
        if called in path:
            raise _error(playbook.name, f"steps.{name}: '{called}' calls itself", "Remove one of the calls")
        if len(path) >= MAX_DEPTH:
            raise _error(playbook.name, f"steps.{name}: sub-playbooks are nested deeper than {MAX_DEPTH}", "Flatten it")
        values = self.parameters[scope]
        inner, first = f"{scope}{name}/", f"{scope}{name}/"
        subject = _subject("", values)
        self._append(PlanStep(id=first, kind="join", title=step.title or called, needs=needs, when=step.when,
                              scope=scope, subject=subject))  # fmt: skip
        before = len(self.steps)
        sub = self._load(called)
        self.add(sub, substitute(step.parameters, values), inner, first, (*path, called))
        needed = {need for added in self.steps[before:] for need in added.needs}
        ends = tuple(added.id for added in self.steps[before:] if added.id not in needed)
        self._append(PlanStep(id=f"{scope}{name}", kind="join", title=f"end of {step.title or called}", needs=ends,
                              scope=scope))  # fmt: skip


def _error(name: str, reason: str, cure: str) -> PlaybookError:
    return PlaybookError(name, [Problem(0, "plan", reason, cure)])


def _bound(playbook: Playbook, given: Mapping[str, Any]) -> Values:
    """The value of each parameter; raises PlaybookError if one is missing, unknown or of the wrong type."""
    problems = [
        Problem(0, f"parameters.{name[:64]}", "there is no such parameter", "Leave it out")
        for name in given if name not in playbook.parameters
    ]  # fmt: skip
    values: Values = {}
    for name, parameter in playbook.parameters.items():
        value = given.get(name, parameter.default)
        if value is None:
            problems.append(Problem(0, f"parameters.{name}", "is missing", f"Give a {parameter.type}"))
        elif not fits(parameter, value) or (isinstance(value, str) and not _sound(value)):
            cure = f"Give a {parameter.type}; text has at most {MAX_VALUE} characters"
            problems.append(Problem(0, f"parameters.{name}", f"is no {parameter.type}", cure))
        values[name] = value
    if problems:
        raise PlaybookError(playbook.name, problems)
    return values


def _sound(text: str) -> bool:
    """Whether every database stores the text."""
    return len(text) <= MAX_VALUE and "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def substitute(value: Any, values: Values) -> Any:
    """`value` with each `${name}` replaced, once: what is put in is not read again. A text that is nothing but one
    reference becomes the parameter itself, with its type.
    """
    if isinstance(value, dict):
        return {key: substitute(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, values) for item in value]
    if not isinstance(value, str):
        return value
    whole = _REFERENCE.fullmatch(value)
    return values[whole[1]] if whole else _REFERENCE.sub(lambda match: _text(values[match[1]]), value)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _subject(device: str, values: Values) -> str:
    return device or str(values.get("device", ""))


def _plan_step(
    playbook: Playbook, name: str, step: Step, needs: tuple[str, ...], scope: str, values: Values
) -> PlanStep:
    device = str(substitute(step.device, values))
    subject = _subject(device, values)
    until = step.wait.until if isinstance(step.wait, Wait) else step.repeat.until if step.repeat is not None else ""
    for text in (step.when, until):
        if text and not subject and needs_device(text):
            raise _error(playbook.name, f"steps.{name}: its condition reads a device, and it has none",
                         "Give the step a `device`, or the playbook a parameter `device`")  # fmt: skip
    title = str(substitute(step.title, values))[:MAX_TEXT]
    shared = PlanStep(id=scope + name, kind="wait", title=title, needs=needs, when=step.when, scope=scope,
                      subject=subject, until=until, on_failure=step.on_failure)  # fmt: skip
    if isinstance(step.wait, Wait):
        return msgspec.structs.replace(shared, wait_s=seconds(step.wait.timeout), every_s=seconds(step.wait.every))
    if step.wait is not None:
        return msgspec.structs.replace(shared, wait_s=seconds(step.wait))
    repeat = step.repeat
    return msgspec.structs.replace(
        shared, kind="action", action=str(step.action), device=device, parameters=substitute(step.parameters, values),
        retries=step.retry.times, retry_s=seconds(step.retry.wait), rounds=repeat.times if repeat else 1,
        every_s=seconds(repeat.every) if repeat else 1.0,
    )  # fmt: skip
