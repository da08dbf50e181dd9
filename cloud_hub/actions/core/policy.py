"""The policy of actions: the first rule that matches decides to allow, to ask for approvals, or to forbid. Pure.

A rule matches if all its conditions hold. An exhausted budget or a cooldown that has not passed is a condition that
does not hold, so the next rule decides. Sensitive sequences and action storms can only make the verdict stricter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import msgspec

from cloud_hub.security.core.roles import format_roles
from cloud_hub.settings.week_hours import next_us, parse_hours, parse_time_zone

Decision = Literal["allow", "approve", "forbid"]
Risk = Literal["read-only", "low", "medium", "high"]
Origin = Literal["diagnosis", "person", "playbook"]
Place = Literal["device", "site", "hub"]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=366 * 86400)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
MAX_RULES = 500
"""Each may cost a query, whenever an action is judged."""
STRICTNESS: dict[Decision, int] = {"allow": 0, "approve": 1, "forbid": 2}


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the policy file."""


def _check_roles(roles: Sequence[str]) -> None:
    if not roles:
        raise ValueError("roles: name at least one role, or nobody could approve")
    format_roles(list(roles))


class Budget(_Part, frozen=True):
    """At most `per_day` actions by this rule within 24 h, on one device, on one site, or of the whole hub."""

    per_day: Count
    of: Place = "device"


class Rule(_Part, frozen=True):
    """One rule; an empty condition holds always.

    `actions` are patterns of `type` or `type:detail`, such as `command:restart/*`. `sites` are asset paths: a rule that
    forbids matches if any touched device is below them, another only if all are. `risks`, `origins` and `proposers`
    are lists. `hours` are local times of the policy's time zone. `most_devices` bounds the devices touched.
    `called_for`: the hub's own evidence calls for the action. `cooldown_s` counts since the same was last carried out
    on the device. `roles` are those whose holders may approve.
    """

    name: Text
    decision: Decision
    actions: tuple[Text, ...] = ()
    sites: tuple[Text, ...] = ()
    risks: tuple[Risk, ...] = ()
    origins: tuple[Origin, ...] = ()
    proposers: tuple[Text, ...] = ()
    hours: tuple[Text, ...] = ()
    most_devices: Count | None = None
    called_for: bool = False
    cooldown_s: Seconds = 0.0
    budget: Budget | None = None
    approvals: Annotated[int, msgspec.Meta(ge=1, le=2)] = 1
    roles: tuple[Text, ...] = ("operator",)
    own: bool = False
    """Whether the person who proposed the action may approve it."""

    def __post_init__(self) -> None:
        for text in self.hours:
            parse_hours(text)
        _check_roles(self.roles)


class SensitiveSequence(_Part, frozen=True):
    """`then` within `within_s` after `first`, on the same device, site or hub, is forbidden or needs approvals."""

    name: Text
    first: tuple[Text, ...]
    then: tuple[Text, ...]
    within_s: Seconds = 3600.0
    of: Place = "device"
    decision: Literal["approve", "forbid"] = "forbid"
    approvals: Annotated[int, msgspec.Meta(ge=1, le=2)] = 2
    roles: tuple[Text, ...] = ("operator",)

    def __post_init__(self) -> None:
        _check_roles(self.roles)


class Storm(_Part, frozen=True):
    """More than mean + `sigmas` standard deviations of the hub's own hours is a storm; never below `floor` an hour.

    In a storm nothing is allowed without a person. Beyond `ceiling` actions an hour everything is forbidden.
    """

    sigmas: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 3.0
    floor: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 30
    ceiling: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000


class Policy(_Part, frozen=True):
    """The policy file. What no rule matches is decided by `otherwise`."""

    rules: Annotated[tuple[Rule, ...], msgspec.Meta(max_length=MAX_RULES)]
    otherwise: Literal["approve", "forbid"] = "forbid"
    sequences: Annotated[tuple[SensitiveSequence, ...], msgspec.Meta(max_length=MAX_RULES)] = ()
    storm: Storm = Storm()
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        parse_time_zone(self.time_zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRequest:
    """What is judged. `details` say what the type does with its parameters, such as `restart/line-camera`.

    `paths` are the asset paths of the devices touched ('' for a device without one), `devices` their number.
    """

    type: str
    details: tuple[str, ...] = ()
    device: str = ""
    risk: Risk = "high"
    devices: int = 1
    paths: tuple[str, ...] = ("",)
    origin: Origin = "person"
    proposer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentAction:
    """An action that was carried out, or an alarm that was suppressed (type `alarm`)."""

    type: str
    details: tuple[str, ...]
    t_us: int
    device: str = ""
    site: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HourlyHistory:
    """Actions proposed in this hour, and mean and standard deviation of the hours before."""

    count: int = 0
    mean: float = 0.0
    deviation: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts about a request.

    `uncalled` is why the hub's evidence does not call for the action, '' if it does. `last_us` is when the same was
    last approved or carried out on the device. `used` counts the actions of each rule with a budget within a day.
    """

    uncalled: str = ""
    last_us: int | None = None
    used: Mapping[str, int] = field(default_factory=dict)
    recent: Sequence[RecentAction] = ()
    site: str = ""
    hourly: HourlyHistory = HourlyHistory()


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleResult:
    """How a rule, sequence or storm check came out: `reason` says why it does not match, or what it decides."""

    rule: str
    matched: bool
    reason: str
    missed: bool = False
    """Whether a rule that would have been laxer is about this action, and one of its conditions does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision, the rule that made it and the reason; with `approve`, how many holders of `roles` must approve."""

    decision: Decision
    rule: str
    reason: str
    approvals: int = 0
    roles: tuple[str, ...] = ()
    own: bool = False
    results: tuple[RuleResult, ...] = ()
    storm: str = ""
    """The alarm text of an action storm."""


def matches(patterns: Sequence[str], type_: str, details: Sequence[str], *, every: bool = False) -> bool:
    """Whether a pattern is the type, or matches `type:detail` for one of the details, or for `every` one.

    What allows something must match every detail: a patch of two places is not allowed by a pattern of one of them.
    """
    if "*" in patterns or type_ in patterns:
        return True
    hits = [any(fnmatchcase(f"{type_}:{detail}", pattern) for pattern in patterns) for detail in details]
    return bool(hits) and (all(hits) if every else any(hits))


def judge(policy: Policy, request: PolicyRequest, facts: Facts, now_us: int) -> Verdict:
    """Judge a request at a time in microseconds UTC."""
    verdict, results = _first_match(policy, request, facts, now_us)
    floors = [_sequence(sequence, request, facts, now_us) for sequence in policy.sequences]
    storm = _storm(policy.storm, facts.hourly)
    for floor, result in (*floors, storm):
        results.append(result)
        if floor is not None:
            verdict = _stricter(verdict, floor)
    return replace(verdict, results=tuple(results), storm=storm[1].reason if storm[1].matched else "")


def one_approval(verdict: Verdict) -> Verdict:
    """The verdict of an action that waits for a person although it would be allowed now."""
    return replace(verdict, decision="approve", approvals=1, roles=("operator",))


def _stricter(one: Verdict, other: Verdict) -> Verdict:
    def key(verdict: Verdict) -> tuple[int, int]:
        return STRICTNESS[verdict.decision], verdict.approvals

    return other if key(other) > key(one) else one


def _first_match(
    policy: Policy, request: PolicyRequest, facts: Facts, now_us: int
) -> tuple[Verdict, list[RuleResult]]:  # fmt: skip
    results: list[RuleResult] = []
    for rule in policy.rules:
        concerned = is_concerned(rule, request)
        reason = _mismatch(rule, policy.time_zone, request, facts, now_us) if concerned else "other actions"
        results.append(
            RuleResult(
                rule=rule.name,
                matched=not reason,
                reason=reason or rule.decision,
                missed=concerned and bool(reason) and rule.decision == "allow",
            )
        )
        if not reason:
            return _by_rule(rule, results), results
    reason = f"no rule allows {request.type}" + "".join(f" {detail}" for detail in request.details[-1:])
    approvals = 1 if policy.otherwise == "approve" else 0
    verdict = Verdict(
        decision=policy.otherwise, rule="otherwise", reason=_missed(results) or reason, approvals=approvals,
        roles=("operator",) if approvals else (),
    )  # fmt: skip
    return verdict, results


def unreachable(policy: Policy) -> list[str]:
    """The names of rules behind one that matches everything."""
    free = msgspec.structs.asdict(Rule(name="-", decision="allow"))
    for number, rule in enumerate(policy.rules):
        own = msgspec.structs.asdict(rule)
        if all(own[key] == value for key, value in free.items() if key not in _NO_CONDITIONS):
            return [later.name for later in policy.rules[number + 1 :]]
    return []


_NO_CONDITIONS = {"name", "decision", "approvals", "roles", "own"}


def is_concerned(rule: Rule, request: PolicyRequest) -> bool:
    """Whether a rule is about this kind of action."""
    every = rule.decision != "forbid"
    return not rule.actions or matches(rule.actions, request.type, request.details, every=every)


def _by_rule(rule: Rule, results: Sequence[RuleResult]) -> Verdict:
    if rule.decision != "approve":
        return Verdict(decision=rule.decision, rule=rule.name, reason=f"rule '{rule.name}'")
    asks = f"rule '{rule.name}' requires {rule.approvals} approval{'s' * (rule.approvals > 1)}"
    reason = _missed(results) or asks
    return Verdict(
        decision="approve", rule=rule.name, reason=reason, approvals=rule.approvals, roles=rule.roles, own=rule.own
    )


def _missed(results: Sequence[RuleResult]) -> str:
    """Why the first rule that would have allowed the action did not match."""
    return next((result.reason for result in results if result.missed), "")


def _mismatch(rule: Rule, zone: str, request: PolicyRequest, facts: Facts, now_us: int) -> str:
    """Why the rule does not match, or ''."""
    checks = (
        _mismatch_of_request(rule, request),
        facts.uncalled if rule.called_for else "",
        _outside_hours(rule, zone, now_us),
        _cooling(rule, request, facts, now_us),
        _spent(rule, facts),
    )
    return next((reason for reason in checks if reason), "")


def _mismatch_of_request(rule: Rule, request: PolicyRequest) -> str:
    if rule.sites:
        below = [any(_is_below(path, site) for site in rule.sites) for path in request.paths]
        if not (any(below) if rule.decision == "forbid" else bool(below) and all(below)):
            return f"not below {', '.join(rule.sites)}"
    if rule.risks and request.risk not in rule.risks:
        return f"its risk is {request.risk}"
    if rule.origins and request.origin not in rule.origins:
        return f"it is proposed by a {request.origin}"
    if rule.proposers and request.proposer not in rule.proposers:
        return "it is proposed by somebody else"
    if rule.most_devices is not None and request.devices > rule.most_devices:
        return f"it touches {request.devices} devices, {rule.most_devices} are allowed"
    return ""


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


def _outside_hours(rule: Rule, zone: str, now_us: int) -> str:
    if not rule.hours:
        return ""
    inside = next_us([parse_hours(text) for text in rule.hours], parse_time_zone(zone), now_us) == now_us
    return "" if inside else f"outside its hours ({', '.join(rule.hours)} {zone})"


def _cooling(rule: Rule, request: PolicyRequest, facts: Facts, now_us: int) -> str:
    # A time in the future (the clock was set back) has not passed either.
    if facts.last_us is None or now_us - facts.last_us >= rule.cooldown_s * 1e6:
        return ""
    name = request.details[0].partition("/")[0] if request.details else request.type
    return f"the device had a {name} less than {rule.cooldown_s:g} s ago" if rule.cooldown_s else ""


def _spent(rule: Rule, facts: Facts) -> str:
    used = facts.used.get(rule.name, 0)
    if rule.budget is None or used < rule.budget.per_day:
        return ""
    return (
        f"the {rule.budget.of} had {used} actions by rule '{rule.name}' within a day, {rule.budget.per_day} are allowed"
    )


def _sequence(
    sequence: SensitiveSequence, request: PolicyRequest, facts: Facts, now_us: int
) -> tuple[Verdict | None, RuleResult]:  # fmt: skip
    if not matches(sequence.then, request.type, request.details):
        return None, RuleResult(rule=sequence.name, matched=False, reason="other actions")
    for action in facts.recent:
        near = sequence.of == "hub" or (
            action.device == request.device if sequence.of == "device" else action.site == facts.site
        )
        recent = now_us - action.t_us < sequence.within_s * 1e6
        if near and recent and matches(sequence.first, action.type, action.details):
            reason = f"sequence '{sequence.name}': after {action.type} {' '.join(action.details[:1])}".rstrip()
            approvals = sequence.approvals if sequence.decision == "approve" else 0
            verdict = Verdict(
                decision=sequence.decision, rule=sequence.name, reason=reason, approvals=approvals, roles=sequence.roles
            )
            return verdict, RuleResult(rule=sequence.name, matched=True, reason=reason)
    return None, RuleResult(rule=sequence.name, matched=False, reason="nothing of it within its time")


def storm_text(storm: Storm, hourly: HourlyHistory) -> str:
    """What an action storm is made of, or '' if there is none."""
    limit = min(max(float(storm.floor), hourly.mean + storm.sigmas * hourly.deviation), float(storm.ceiling))
    more = "more than " if hourly.count > storm.ceiling else ""
    shown = min(hourly.count, storm.ceiling)
    return f"action storm: {more}{shown} actions this hour, the limit is {limit:.0f}" if hourly.count > limit else ""


def _storm(storm: Storm, hourly: HourlyHistory) -> tuple[Verdict | None, RuleResult]:
    reason = storm_text(storm, hourly)
    if not reason:
        return None, RuleResult(rule="storm", matched=False, reason=f"{hourly.count} actions this hour")
    beyond = hourly.count > storm.ceiling
    verdict = Verdict(
        decision="forbid" if beyond else "approve", rule="storm", reason=reason, approvals=0 if beyond else 1,
        roles=("operator",),
    )  # fmt: skip
    return verdict, RuleResult(rule="storm", matched=True, reason=reason)
