"""The rule table: what a file of rules holds, and its compiled form. Pure.

Patterns are RE2, whose time grows with the length of the text only: no pattern of a site can stall the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import re2
from msgspec import Meta

from cloud_hub.incidents.core.evidence import ALARM_FIELDS, AlarmFact, Evidence, EvidenceItem, ItemKind, alarm_item
from cloud_hub.incidents.core.messages import LANGUAGES, placeholders
from shared.errors import ConfigError
from shared.protocol.messages import About, AlarmKind, Priority

CURE = "The keys of a rule are in docs/incidents/diagnosis.md; try the file with `tidegate-hub desk try FILE`"
RULES, CONDITIONS = 200, 8
"""The maximum number of rules of a file, and of conditions of a rule."""
PATTERN_BYTES = 1 << 20
"""The memory of one compiled pattern."""
MATCHED = 1000
"""How many characters of a text are matched."""
FACTS = {"metric", "value", "limit", "device", "evidence"}
"""What every rule can fill into its texts; named groups of its first condition come on top."""

ITEM_FIELDS = ("kind", "t_us", "summary", "data")

Code = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+){0,5}$", max_length=40)]
Pattern = Annotated[str, Meta(max_length=500)]
Text = Annotated[str, Meta(max_length=500)]


class Condition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which evidence items meet a condition: all of what it names.

    `item` is the kind of item. `metric` (an alarm's or series' whole name), `text` (a part of the summary) and `data`
    (whole values by name) are patterns. `kind` and `about` are those of an alarm; an alarm must be `about` just this,
    so the default is a limit. `within_s` bounds the time between the item and that of the first condition; with
    `before` the item must be no later. `devices` is the least number of devices with such items.
    """

    item: ItemKind = "alarm"
    metric: Pattern = ""
    text: Pattern = ""
    data: dict[str, Pattern] = {}
    kind: AlarmKind | None = None
    about: About = ""
    within_s: Annotated[float, Meta(gt=0)] = 3600.0
    before: bool = False
    devices: Annotated[int, Meta(ge=1, le=1000)] = 1

    def __post_init__(self) -> None:
        for pattern in (self.metric, self.text, *self.data.values()):
            compile_pattern(pattern)


class Proposed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A proposal of a rule: an action type and its parameters, whose texts may use placeholders."""

    action: Code
    parameters: dict[str, Any] = {}


class RuleSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule as it stands in a file. The first condition names the alarm or item that the rule is about.

    `explanation` is a text, or a text for each language; without it the catalogue's `rule.<name>`. Without `propose`
    the device is asked which processes use the most; an empty list proposes nothing.
    """

    name: Code
    cause: Code
    confidence: Annotated[float, Meta(ge=0, le=1)]
    when: Annotated[list[Condition], Meta(min_length=1, max_length=CONDITIONS)]
    unless: Annotated[list[Condition], Meta(max_length=CONDITIONS)] = []
    explanation: Text | dict[str, Text] = ""
    propose: Annotated[list[Proposed], Meta(max_length=4)] | None = None

    def __post_init__(self) -> None:
        texts = self.texts()
        if unknown := set(texts) - set(LANGUAGES):
            raise ValueError(f"no language '{min(unknown)}': there are {', '.join(LANGUAGES)}")
        known = FACTS | _groups(self.when[0])
        for text in [*texts.values(), *(text for one in self.propose or [] for text in _texts(one.parameters))]:
            if missing := placeholders(text) - known:
                raise ValueError(f"no value {{{min(missing)}}} in '{text}': there are {', '.join(sorted(known))}")

    def texts(self) -> dict[str, str]:
        """The explanation by language."""
        if isinstance(self.explanation, str):
            return {"en": self.explanation} if self.explanation else {}
        return self.explanation


class GivenAlarm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An alarm as a test gives it; `device` is the evidence's if empty."""

    metric: str
    kind: AlarmKind = "high"
    value: float = 1.0
    limit: float = 0.0
    priority: Priority = "medium"
    state: Literal["raised", "cleared"] = "raised"
    about: About = ""
    device: str = ""
    t_us: int = 0


class GivenItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another evidence item as a test gives it."""

    kind: ItemKind
    summary: str = ""
    data: dict[str, Any] = {}
    device: str = ""
    t_us: int = 0


class GivenEvidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Evidence as a test gives it."""

    device: str = "device-1"
    alarms: list[GivenAlarm] = []
    items: list[GivenItem] = []

    def evidence(self) -> Evidence:
        """The same as the rules read it."""
        facts = [(a.device or self.device, AlarmFact(**{k: getattr(a, k) for k in ALARM_FIELDS})) for a in self.alarms]
        items = [alarm_item(f"E{n}", device, fact) for n, (device, fact) in enumerate(facts, 1)]
        items += [
            EvidenceItem(id=f"E{n}", device=given.device or self.device, **{k: getattr(given, k) for k in ITEM_FIELDS})
            for n, given in enumerate(self.items, len(items) + 1)
        ]
        return Evidence(incident="given", device=self.device, alarms=[fact for _, fact in facts], items=items)


class RuleTest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the rules must conclude of given evidence, or of a stored `incident` of the hub."""

    cause: str
    name: str = ""
    evidence: GivenEvidence | None = None
    incident: str = ""
    proposes: list[str] | None = None

    def __post_init__(self) -> None:
        if (self.evidence is None) == (not self.incident):
            raise ValueError("a test has either `evidence` or `incident`")


class RuleFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of rules, and tests of it."""

    rules: Annotated[list[RuleSpec], Meta(max_length=RULES)] = []
    tests: Annotated[list[RuleTest], Meta(max_length=1000)] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Matcher:
    """A compiled condition."""

    spec: Condition
    metric: Any = None
    text: Any = None
    data: tuple[tuple[str, Any], ...] = ()

    def match(self, item: EvidenceItem) -> dict[str, str] | None:
        """The named groups of `metric` and `text` if the item meets the condition, else None."""
        spec, data = self.spec, item.data
        if item.kind != spec.item or (spec.item == "alarm" and data.get("about", "") != spec.about):
            return None
        if spec.kind is not None and data.get("kind") != spec.kind:
            return None
        found = {}
        for pattern, text in ((self.metric, str(data.get("metric", ""))), (self.text, item.summary)):
            if pattern is not None:
                matched = pattern.search(_cut(text))
                if matched is None:
                    return None
                found.update({key: value or "" for key, value in matched.groupdict().items()})
        if any(pattern.search(_cut(str(data.get(key, "")))) is None for key, pattern in self.data):
            return None
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A compiled rule."""

    spec: RuleSpec
    when: tuple[Matcher, ...]
    unless: tuple[Matcher, ...]


def compile_rules(specs: Iterable[RuleSpec], place: str) -> tuple[Rule, ...]:
    """Compile the rules of a file; raises ConfigError for a name that stands twice."""
    rules: dict[str, Rule] = {}
    for spec in specs:
        where = f"{place}, rule '{spec.name}'"
        if spec.name in rules:
            raise ConfigError(where, "stands twice", "Give each rule a name of its own")
        when, unless = (tuple(map(_matcher, part)) for part in (spec.when, spec.unless))
        rules[spec.name] = Rule(spec=spec, when=when, unless=unless)
    return tuple(rules.values())


def combine(own: Sequence[Rule], builtin: Sequence[Rule]) -> tuple[Rule, ...]:
    """The site's rules first; one with the name of a built-in rule replaces it."""
    names = {rule.spec.name for rule in own}
    return (*own, *(rule for rule in builtin if rule.spec.name not in names))


def _matcher(spec: Condition) -> Matcher:
    data = tuple((key, compile_pattern(pattern, whole=True)) for key, pattern in spec.data.items())
    metric = compile_pattern(spec.metric, whole=True) if spec.metric else None
    return Matcher(spec=spec, metric=metric, text=compile_pattern(spec.text) if spec.text else None, data=data)


def compile_pattern(pattern: str, *, whole: bool = False) -> Any:
    """Compile a pattern that ignores case; `whole` for all of a text. Raises ValueError."""
    options = re2.Options()
    options.max_mem, options.log_errors, options.case_sensitive = PATTERN_BYTES, False, False
    try:
        return re2.compile(f"^(?:{pattern})$" if whole else pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"the pattern '{pattern}' is not valid: {reason}") from error


def _cut(text: str) -> str:
    """The part of a text that is matched, without half characters, which RE2 refuses."""
    text = text[:MATCHED]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _groups(condition: Condition) -> set[str]:
    return set(re.findall(r"\(\?P<([a-z_][a-z0-9_]*)>", condition.metric + condition.text))


def _texts(value: Any) -> Iterable[str]:
    """All texts in the parameters of a proposal."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
