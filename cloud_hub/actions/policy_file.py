"""The policy in force: the file that the settings name, or the default."""

from __future__ import annotations

from collections.abc import Iterable

from cloud_hub.actions.core.policy import Budget, Origin, Policy, Rule, SensitiveSequence
from cloud_hub.settings.actions import Actions

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
