"""The format of a playbook: a graph of steps in YAML.

    description: Restart a model and look whether it answers again
    parameters:
      device: {type: string}
      model: {type: string, default: line-camera}
    deadline: 10m
    steps:
      restart:
        action: command
        device: ${device}
        parameters: {verb: restart, target: "${model}"}
      settle:
        needs: [restart]
        wait: 5s
      done:
        needs: [settle]
        wait: {until: "reported.models.line-camera.state = 'running'", timeout: 1m}

A step has exactly one of `action`, `wait` and `playbook`. Everything is bounded: see the constants.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from cloud_hub.playbooks.core import document
from cloud_hub.playbooks.core.conditions import check as check_condition
from cloud_hub.playbooks.core.graph import find_cycle
from cloud_hub.playbooks.core.problems import PlaybookError, Problem
from shared.suggestions import explained, nearest

MAX_STEPS = 200
"""Steps of one file, and of a run with all its sub-playbooks."""
MAX_PARAMETERS = 50
MAX_TIMES = 100
"""Rounds of a `repeat`."""
MAX_RETRIES = 10
MAX_SECONDS = 7 * 86_400
"""The longest wait, time-out or deadline."""
MAX_TEXT = 500

NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}\Z")
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)\Z")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

OnFailure = Literal["stop", "continue", "undo"]
Scalar = str | int | float | bool


class Parameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A parameter of a playbook; without `default` a run must give it."""

    type: Literal["string", "number", "integer", "boolean"] = "string"
    default: Scalar | None = None
    description: str = ""


class Wait(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wait until a condition holds; the step fails after `timeout`."""

    until: str
    timeout: str
    every: str = "1s"


class Repeat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Run the step up to `times` times, `every` so long, until the condition holds."""

    times: int
    until: str = ""
    every: str = "10s"


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Try a failed step again so many times, so long after each failure."""

    times: int = 3
    wait: str = "10s"


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step: an action (on `device`, or on none), a wait, or a sub-playbook."""

    title: str = ""
    action: str | None = None
    device: str = ""
    parameters: dict[str, Any] = {}
    wait: str | Wait | None = None
    playbook: str | None = None
    needs: tuple[str, ...] = ()
    when: str = ""
    repeat: Repeat | None = None
    retry: Retry = Retry()
    on_failure: OnFailure = "stop"


class Playbook(msgspec.Struct, frozen=True, kw_only=True):
    """A checked playbook. Its steps are in the order of the file."""

    name: str
    description: str
    parameters: dict[str, Parameter]
    deadline_s: float
    steps: dict[str, Step]


_FIELDS = ("description", "parameters", "deadline", "steps")


def seconds(text: str) -> float:
    """A duration such as 500ms, 10s, 5m, 2h or 1d in seconds; raises ValueError."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"'{text[:40]}' is no duration")
    value = float(match[1]) * _UNITS[match[2]]
    if value > MAX_SECONDS:
        raise ValueError(f"'{text[:40]}' is longer than {MAX_SECONDS // 86_400} days")
    return value


def read(text: str, name: str) -> Playbook:
    """The playbook `name` in the YAML `text`. Raises PlaybookError with every problem, its line and its cure."""
    value, lines = document.read(text, name)
    reader = _Reader(name, lines)
    playbook = reader.playbook(value)
    if reader.problems or playbook is None:
        raise PlaybookError(name, reader.problems)
    return playbook


class _Reader:
    """Collects the problems of one file, so that a person sees them all at once."""

    def __init__(self, name: str, lines: document.Lines) -> None:
        self.name, self._lines = name, lines
        self.problems: list[Problem] = []

    def add(self, place: document.Place, reason: str, cure: str) -> None:
        """Record a problem at the nearest place that has a line."""
        known = place
        while known and known not in self._lines:
            known = known[:-1]
        self.problems.append(Problem(self._lines.get(known, 0), ".".join(map(str, place)) or "file", reason, cure))

    def playbook(self, value: Any) -> Playbook | None:
        """Check the whole file; None if it is not even a mapping with steps."""
        if not NAME.match(self.name):
            cure = "Name the file by lower-case letters, digits, - and _, for example restart-model.yaml"
            self.add((), f"'{self.name[:80]}' is no name of a playbook", cure)
        if not isinstance(value, dict):
            self.add((), "the file is no mapping", f"Write {', '.join(_FIELDS)}")
            return None
        for key in value.keys() - set(_FIELDS):
            self.add((key,), "there is no such field" + nearest(key, _FIELDS), f"Use {', '.join(_FIELDS)}")
        parameters, steps = self._parameters(value.get("parameters", {})), self._steps(value.get("steps"))
        for step_name, step in steps.items():
            self._step(step_name, step, steps, parameters)
        if not self.problems and (cycle := find_cycle({key: step.needs for key, step in steps.items()})):
            cure = "Remove one of these needs"
            self.add(("steps", cycle[0], "needs"), f"steps wait for each other: {' -> '.join(cycle)}", cure)
        deadline = str(value.get("deadline", "1h"))
        self._duration(("deadline",), deadline, at_least=1.0)
        if self.problems:
            return None
        return Playbook(name=self.name, description=str(value.get("description") or "")[:MAX_TEXT],
                        parameters=parameters, deadline_s=seconds(deadline), steps=steps)  # fmt: skip

    def _parameters(self, value: Any) -> dict[str, Parameter]:
        if not isinstance(value, dict) or len(value) > MAX_PARAMETERS:
            self.add(("parameters",), f"is no mapping of at most {MAX_PARAMETERS} names", "Write name: {type: string}")
            return {}
        read = {key: self._convert(("parameters", key), item, Parameter) for key, item in value.items()}
        for key, parameter in read.items():
            if not NAME.match(key):
                self.add(("parameters", key), "is no name", "Use lower-case letters, digits, - and _")
            if parameter is not None and parameter.default is not None and not fits(parameter, parameter.default):
                self.add(("parameters", key, "default"), f"is no {parameter.type}", "Correct type or default")
        return {key: parameter for key, parameter in read.items() if parameter is not None}

    def _steps(self, value: Any) -> dict[str, Step]:
        if not isinstance(value, dict) or not 1 <= len(value) <= MAX_STEPS:
            self.add(("steps",), f"is no mapping of 1 to {MAX_STEPS} steps", "Write name: {action: ...} for each step")
            return {}
        read = {key: self._convert(("steps", key), item, Step) for key, item in value.items()}
        for key in read:
            if not NAME.match(key):
                self.add(("steps", key), "is no name of a step", "Use lower-case letters, digits, - and _")
        return {key: step for key, step in read.items() if step is not None}

    def _convert(self, place: document.Place, value: Any, kind: Any) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            text = explained(error, kind)
            inner = re.search(r"at `\$\.?([a-z_]*)", text)
            field = re.search(r"unknown field `([^`]*)`", text)
            name = field[1] if field else inner[1] if inner and inner[1] else ""
            self.add((*place, name) if name else place, text, "Correct it; docs/incidents/playbooks.md has every field")
            return None

    # -- one step

    def _step(self, name: str, step: Step, steps: dict[str, Step], parameters: dict[str, Parameter]) -> None:
        place: document.Place = ("steps", name)
        kinds = [kind for kind in ("action", "wait", "playbook") if getattr(step, kind) is not None]
        if len(kinds) != 1:
            written = " and ".join(kinds) or "none of them"
            self.add(place, f"has {written}", "Give exactly one of action, wait and playbook")
        for need in step.needs:
            if need not in steps:
                self.add((*place, "needs"), f"there is no step '{need[:64]}'{nearest(need, steps)}", "Name a step")
        if step.device and step.action is None:
            self.add((*place, "device"), "belongs to an action", "Leave it out")
        if step.parameters and step.wait is not None:
            self.add((*place, "parameters"), "belong to an action or a playbook", "Leave them out")
        for text in _texts((step.device, step.parameters)):
            for reference in _REFERENCE.findall(text):
                if reference not in parameters:
                    cure = f"Use a parameter{nearest(reference, parameters)}"
                    self.add(place, f"${{{reference[:64]}}} is no parameter of this playbook", cure)
        if step.playbook is not None and (step.on_failure != "stop" or step.repeat is not None):
            self.add(place, "on_failure and repeat belong to the steps inside a sub-playbook", "Move them there")
        self._times(place, step)
        self._conditions(place, step, steps, parameters)

    def _times(self, place: document.Place, step: Step) -> None:
        if isinstance(step.wait, str):
            self._duration((*place, "wait"), step.wait)
        elif step.wait is not None:
            self._duration((*place, "wait", "timeout"), step.wait.timeout)
            self._duration((*place, "wait", "every"), step.wait.every, at_least=0.5)
        if step.repeat is not None:
            if step.action is None:
                self.add((*place, "repeat"), "belongs to an action", "Leave it out, or move it to the action")
            if not 1 <= step.repeat.times <= MAX_TIMES:
                self.add((*place, "repeat", "times"), f"is not 1 to {MAX_TIMES}", "Every loop has a bound")
            self._duration((*place, "repeat", "every"), step.repeat.every)
        if not 0 <= step.retry.times <= MAX_RETRIES:
            self.add((*place, "retry", "times"), f"is not 0 to {MAX_RETRIES}", "Correct it")
        self._duration((*place, "retry", "wait"), step.retry.wait)

    def _duration(self, place: document.Place, value: Any, at_least: float = 0.0) -> None:
        try:
            short = seconds(str(value)) < at_least
            reason = f"is shorter than {at_least:g} s" if short else ""
        except ValueError as error:
            reason = str(error)
        if reason:
            self.add(place, reason, "Write a number with its unit: 500ms, 10s, 5m, 2h or 1d")

    def _conditions(
        self, place: document.Place, step: Step, steps: dict[str, Step], parameters: dict[str, Parameter]
    ) -> None:
        texts: list[tuple[document.Place, str]] = [((*place, "when"), step.when)] if step.when else []
        if isinstance(step.wait, Wait):
            texts.append(((*place, "wait", "until"), step.wait.until))
        if step.repeat is not None and step.repeat.until:
            texts.append(((*place, "repeat", "until"), step.repeat.until))
        for where, text in texts:
            for reason in check_condition(text, steps, parameters):
                self.add(where, reason, "docs/incidents/playbooks.md describes conditions")


def fits(parameter: Parameter, value: Any) -> bool:
    """Whether a value is of the parameter's type."""
    if isinstance(value, bool):
        return parameter.type == "boolean"
    kinds: dict[str, tuple[type, ...]] = {"string": (str,), "number": (int, float), "integer": (int,), "boolean": ()}
    return isinstance(value, kinds[parameter.type])


def _texts(value: Any) -> list[str]:
    """Every text in a value, names of mappings left out; documents are bounded in depth."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    return [text for item in value for text in _texts(item)] if isinstance(value, (list, tuple)) else []
