"""Diagnoses incidents by a table of rules over alarms, without a language model. Pure.

`allowed_actions` lists the proposals that are allowed at all; it applies to rules and engines alike.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cloud_hub.incidents.core.evidence import AlarmFact, Diagnosis, Evidence, Proposal, Verb, command_proposal
from shared.protocol.messages import About, AlarmKind

ENGINE = "rules, no language model"
URGENCY = ("critical", "high", "medium", "low")
DIAGNOSE: tuple[Verb, str] = ("diagnose", "processes")
"""The read-only command that every device offers: which processes use the most."""

Allowed = tuple[Verb, str, str]
"""Verb, device and target of an allowed proposal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Maps an alarm of a metric, `kind` and `about` to a `cause`.

    `explanation` and `target` may use {metric}, {name}, {value}, {limit}. A rule with the verb 'diagnose' proposes that
    command first; once there is output, it names the top process instead.
    """

    metric: re.Pattern[str]
    kind: AlarmKind
    cause: str
    confidence: float
    explanation: str
    verb: Verb = DIAGNOSE[0]
    target: str = DIAGNOSE[1]
    about: About = ""


def _rule(metric: str, kind: AlarmKind, cause: str, confidence: float, explanation: str, about: About = "") -> Rule:
    return Rule(
        metric=re.compile(metric), kind=kind, cause=cause, confidence=confidence, explanation=explanation, about=about
    )


AHEAD = "{limit:.6g} within a quarter of an hour (probability {value:.2f})"

RULES: tuple[Rule, ...] = (
    Rule(
        metric=re.compile(r"(?P<name>.+)/age_s"),
        kind="high",
        cause="model-stalled",
        confidence=0.9,
        explanation="model {name} gave no answer for {value:.6g} s (limit {limit:.6g} s)",
        verb="restart",
        target="{name}",
    ),
    _rule(r"temp\..+", "high", "overheating", 0.8, "{metric} is {value:.6g}, above {limit:.6g}"),
    _rule(r"disk\.used", "high", "disk-filling", 0.85, "the disk is full to {value:.6g} (limit {limit:.6g})"),
    _rule(r"disk\.free", "low", "disk-filling", 0.85, "only {value:.6g} of the disk is free (limit {limit:.6g})"),
    _rule(r"(?:memory|swap)\.used", "high", "memory-pressure", 0.8, "{metric} is {value:.6g}, above {limit:.6g}"),
    _rule(r"memory\.available", "low", "memory-pressure", 0.8, "{metric} is {value:.6g}, below {limit:.6g}"),
    _rule(r"cpu\.load1?", "high", "cpu-saturated", 0.8, "{metric} is {value:.6g}, above {limit:.6g}"),
    _rule(r".+", "high", "no-data", 0.8, "no data of {metric} for {value:.6g} s", "no-data"),
    _rule(r".+", "no-data", "no-data", 0.7, "no data of {metric} for longer than usual", "anomaly"),
    _rule(r".+", "high", "sensor-stuck", 0.6, "{metric} has not moved for {value:.6g} s", "flat"),
    _rule(r".+", "high", "service-unusual", 0.5, "{metric} of a whole service is unusual for this hour", "service"),
    _rule(r".+", "high", "unlike-peers", 0.5, "{metric} differs lastingly from other devices of its service", "peers"),
    _rule(r".+", "high", "unusual-course", 0.4, "the course of {metric} is unlike its history", "anomaly"),
    _rule(r".+", "high", "limit-ahead", 0.4, f"{{metric}} will probably be above {AHEAD}", "forecast"),
    _rule(r".+", "low", "limit-ahead", 0.4, f"{{metric}} will probably be below {AHEAD}", "forecast"),
)
"""In order of precedence: a cause that explains others comes first."""


def diagnose(evidence: Evidence) -> Diagnosis:
    """Apply the first rule that matches a raised alarm, else a cleared one; 'unknown' if none matches."""
    alarms = sorted(evidence.alarms, key=lambda alarm: URGENCY.index(alarm.priority))
    for state in ("raised", "cleared"):
        for rule in RULES:
            for alarm in alarms:
                match = rule.metric.fullmatch(alarm.metric) if alarm.state == state else None
                if match and (alarm.kind, alarm.about) == (rule.kind, rule.about):
                    return _diagnosis(evidence, rule, alarm, match.groupdict())
    proposals = (
        [] if evidence.command_output else [_diagnose_first(evidence, "no rule matches these alarms: diagnose first")]
    )
    return _result("unknown", 0.2, f"no rule matches{_top(evidence.command_output)}", proposals)


def _diagnosis(evidence: Evidence, rule: Rule, alarm: AlarmFact, named: Mapping[str, str]) -> Diagnosis:
    facts = {"metric": alarm.metric, "value": alarm.value, "limit": alarm.limit, **named}
    explanation = rule.explanation.format(**facts)
    if alarm.state == "cleared":  # nothing left to do
        return _result(rule.cause, rule.confidence / 2, f"{explanation}; the alarm has cleared", [])
    if rule.verb != "diagnose":
        target = rule.target.format(**facts)
        proposal = command_proposal(rule.verb, evidence.device, target, explanation)
        return _result(rule.cause, rule.confidence, explanation, [proposal])
    proposals = [] if evidence.command_output else [_diagnose_first(evidence, explanation)]
    return _result(rule.cause, rule.confidence, explanation + _top(evidence.command_output), proposals)


def _result(cause: str, confidence: float, explanation: str, proposals: list[Proposal]) -> Diagnosis:
    return Diagnosis(
        cause=cause, confidence=confidence, explanation=f"{explanation} ({ENGINE})", author="rules", engine=ENGINE,
        proposals=proposals,
    )  # fmt: skip


def _diagnose_first(evidence: Evidence, reason: str) -> Proposal:
    return command_proposal(DIAGNOSE[0], evidence.device, DIAGNOSE[1], reason)


def _top(output: Mapping[str, str | float]) -> str:
    """`; top process: NAME (LOAD)`, or '' without output."""
    loads = {k: float(v) for k, v in output.items() if not isinstance(v, str) and math.isfinite(v)}
    if loads:
        name = max(loads, key=lambda key: loads[key])
        return f"; top process: {name[:80]} ({loads[name]:.6g})"
    return "".join(f"; {key[:80]}: {str(value)[:80]}" for key, value in list(output.items())[:1])


def allowed_actions(evidence: Evidence) -> list[Allowed]:
    """The actions that may be proposed: diagnose, and restart or capture of the models that raised the alarms.

    Only alarms name a model: event texts, twin content and command output cannot extend this list.
    """
    names = {alarm.metric.rpartition("/")[0] for alarm in evidence.alarms} - {""}
    verbs: tuple[Verb, ...] = ("capture", "restart")
    diagnose_processes: Allowed = (DIAGNOSE[0], evidence.device, DIAGNOSE[1])
    return [diagnose_processes, *((verb, evidence.device, name) for name in sorted(names) for verb in verbs)]
