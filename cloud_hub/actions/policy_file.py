"""The policy in force: the file that the settings name, or the default. A file with a fault is never in force."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cloud_hub.actions.core.policy import Budget, Origin, Policy, Rule, SensitiveSequence, unreachable
from cloud_hub.settings.actions import Actions
from cloud_hub.yaml_files import decode
from shared.errors import ConfigError
from shared.suggestions import nearest

CURE = "Correct it: every key is in docs/incidents/actions.md; `tidegate-hub policy check FILE` checks it"
EVENTS = ("alarm", "playbook")
"""Types in patterns beside those of the catalogue: suppressed alarms, and playbooks."""


def load_policy(settings: Actions, types: Iterable[str]) -> Policy:
    """The policy of the settings. Raises ConfigError, so that the hub does not start with a laxer one."""
    if not settings.policy:
        return default_policy(settings)
    try:
        text = Path(settings.policy).read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"actions.policy: {settings.policy}", f"cannot be read ({error})", CURE) from error
    return read_policy(text, settings.policy, types)


def read_policy(text: str, name: str, types: Iterable[str]) -> Policy:
    """Read the text of a policy file. ConfigError names the line, the fault and the cure."""
    policy = decode(text, Policy, name, CURE)
    known = {*types, *EVENTS}
    patterns = [pattern for rule in policy.rules for pattern in rule.actions]
    patterns += [pattern for sequence in policy.sequences for pattern in (*sequence.first, *sequence.then)]
    for pattern in patterns:
        kind = pattern.partition(":")[0]
        if "*" not in kind and kind not in known:
            reason = f"'{pattern}': there is no action type '{kind}'{nearest(kind, known)}"
            raise ConfigError(_place(name, text, pattern), reason, CURE)
    names = [rule.name for rule in policy.rules] + [sequence.name for sequence in policy.sequences]
    for rule in names:
        if names.count(rule) > 1:
            raise ConfigError(_place(name, text, rule, last=True), f"two rules have the name '{rule}'", CURE)
    return policy


def warnings(policy: Policy) -> list[str]:
    """What is allowed in a file but probably not meant."""
    found = [f"rule '{rule}' is never reached: the rule before it decides everything" for rule in unreachable(policy)]
    for rule in policy.rules:
        if rule.decision == "allow" and not (rule.actions or rule.risks or rule.proposers):
            found.append(f"rule '{rule.name}' allows every action, those of high risk too")
    if policy.otherwise == "approve":
        found.append("'otherwise: approve': what no rule names can be approved, by one operator")
    return found


def _place(name: str, text: str, wanted: str, *, last: bool = False) -> str:
    lines = [number for number, line in enumerate(text.splitlines(), 1) if wanted in line]
    return f"{name}, line {lines[-1 if last else 0]}" if lines else name


# -- the default -------------------------------------------------------------------------------------

CHANGING = ("restart", "capture")
LOOKING = ("diagnose",)
PEOPLE: tuple[Origin, ...] = ("person", "playbook")
VERBS = (*LOOKING, *CHANGING)


def default_policy(settings: Actions) -> Policy:
    """Verbs of `automatic` without a person, other verbs and everything that people propose with approvals."""
    looking = _commands(verb for verb in LOOKING if verb in settings.automatic)
    changing = _commands(verb for verb in CHANGING if verb in settings.automatic)
    rules = [
        *([Rule(name="looking", decision="allow", actions=looking)] if looking else []),
        *([_automatic(changing, settings)] if changing else []),
        Rule(name="a-person-decides", decision="approve", actions=_commands(VERBS), origins=("diagnosis",)),
        Rule(
            name="two-others-decide", decision="approve", approvals=2, risks=("high",), origins=("person", "playbook")
        ),
        Rule(name="another-person-decides", decision="approve", origins=PEOPLE),
    ]
    disable = SensitiveSequence(
        name="disable-an-alarm-then-write",
        first=("limits:remove*", "twin:*/thresholds/*", "job:twin/*/thresholds/*", "alarm:shelved*"),
        then=("twin", "job:twin*", "job:command*", "script"),
    )
    return Policy(rules=tuple(rules), sequences=(disable,))


def _automatic(actions: tuple[str, ...], settings: Actions) -> Rule:
    return Rule(
        name="automatic", decision="allow", actions=actions, called_for=True, cooldown_s=settings.cooldown_s,
        budget=Budget(per_day=settings.per_day),
    )  # fmt: skip


def _commands(verbs: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"command:{verb}/*" for verb in verbs)
