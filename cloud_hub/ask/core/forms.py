"""The fixed question forms: what the hub can answer without a language model, in English and Chinese.

A form is a pattern and the tool calls that answer it. `{device}` stands for a device id or "it" (the last device of
the session), `{metric}` for a metric name. The first form that matches counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cloud_hub.ask.core.facts import ToolCall
from cloud_hub.ask.core.periods import period_us
from shared.durations import DAY_US, WEEK_US

MAX_QUESTION = 1000
"""Characters of a question at most."""
_NO_DEVICE = "the|a|an|my|our|this|that|all|any|there|we|you|everything|in|since|during|last"
_END = "(?![a-z0-9_-])"
"""The end of a device id: `a-1` and `it-3` do not end after their first word."""
_DEVICE = rf"(?P<device>it{_END}|它|(?!(?:{_NO_DEVICE}){_END})[a-z0-9][a-z0-9_-]{{0,59}})"
_METRIC = r"(?P<metric>[a-z][a-z0-9_.:/-]{0,99})"
_INCIDENT = r"(?P<incident>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
_AT = r"(?:\s+(?:on|with|at|of|for|to)\s+(?:device\s+)?{device})?"
Build = Callable[[dict[str, str], int | None], list[ToolCall]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A question form. `build` makes the calls of the named groups and the period in microseconds."""

    name: str
    examples: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]
    build: Build


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A question that a form can answer. `device` is the one that it names, or ''."""

    form: str
    calls: tuple[ToolCall, ...]
    device: str = ""


def _form(name: str, examples: Sequence[str], patterns: Sequence[str], build: Build) -> Form:
    """A form; patterns are matched from the start of the question and need not reach its end."""
    named = [text.replace("{device}", _DEVICE).replace("{metric}", _METRIC).replace("{incident}", _INCIDENT)
             for text in patterns]  # fmt: skip
    return Form(name=name, examples=tuple(examples), patterns=tuple(re.compile(text) for text in named), build=build)


def _call(tool: str, **arguments: Any) -> ToolCall:
    return ToolCall(tool=tool, arguments={key: value for key, value in arguments.items() if value not in ("", None)})


def _standing(named: dict[str, str], _: int | None) -> list[ToolCall]:
    device = named["device"]
    return [_call("incidents", device=device, state="unresolved"), _call("alarms", device=device, state="raised")]


def _history(named: dict[str, str], span_us: int | None) -> list[ToolCall]:
    device, span_s = named["device"], (span_us or DAY_US) / 1e6
    if named["incident"]:
        return [_call("incident", id=named["incident"])]
    return [_call(tool, device=device, since_s=span_s) for tool in ("incidents", "alarms", "changes", "events")]


def _actions(named: dict[str, str], span_us: int | None) -> list[ToolCall]:
    if named["incident"]:
        return [_call("incident", id=named["incident"])]
    return [_call("actions", device=named["device"], since_s=(span_us or WEEK_US) / 1e6)]


def _series(named: dict[str, str], span_us: int | None) -> list[ToolCall]:
    device, metric = named["device"], named["metric"]
    if span_us is None:
        return [_call("last_values", device=device, metric=metric)]
    return [_call("series", device=device, metric=metric, since_s=span_us / 1e6)]


_SPAN = r"(?:.*?)"
FORMS: tuple[Form, ...] = (
    _form(
        "query",
        ["list devices where tags.site = 'a'", "列出设备 tags.site = 'a'"],
        [r"(?:which|list|show|find)(?: me)?(?: the| all)? devices where (?P<where>.+)", r"列出设备[:: ]*(?P<where>.+)"],
        lambda named, _: [_call("find_devices", where=named["where"])],
    ),
    _form(
        "count",
        ["how many devices are there?", "有多少台设备?"],
        [r"how many devices(?: are there| do we have)?(?: where (?P<where>.+))?\Z", r"(?:一共)?有?多少(?:台|个)?设备"],
        lambda named, _: [_call("count_devices", where=named["where"])],
    ),
    _form(
        "plan",
        ["draft a plan to restart line-camera on press-3", "拟定计划:重启press-3的line-camera"],
        [r"(?:make|draft|write|propose|give me)(?: me)?(?: a| the)? (?:plan|playbook) (?:to|for) restart(?:ing)?"
         r"(?: the)?(?: model)? {metric} (?:on|of) (?:device )?{device}",
         r"(?:拟定|起草|制定)(?:一个)?(?:计划|方案|剧本)[:：,，]?\s*重启\s*{device}\s*(?:上)?的\s*{metric}"],
        lambda named, _: [ToolCall(tool="fill_playbook", arguments={
            "name": "restart-model", "parameters": {"device": named["device"], "model": named["metric"]}})],
    ),
    _form(
        "playbooks",
        ["which playbooks are there?", "有哪些剧本?"],
        [r"(?:which|what|list|show)(?: me)?(?: the| all)? playbooks", r"有?(?:哪些|什么)剧本"],
        lambda _, __: [_call("playbooks")],
    ),
    _form(
        "offline",
        ["which devices are offline?", "哪些设备离线?"],
        [r"(?:which|what|are any|list) devices (?:are |is )?(?:offline|silent|down|disconnected|not connected)",
         r"(?:哪些|什么|有没有)设备(?:处于)?(?:离线|掉线|断线|不在线)"],
        lambda _, __: [_call("find_devices", where="state = 'offline'")],
    ),
    _form(
        "highest",
        ["which devices have the highest cpu.load in the last 6 hours?", "哪些设备的cpu.load最高?"],
        [r"(?:which|what) devices? (?:have|has|had|with) the highest {metric}",
         r"哪(?:些|台|个)设备的?\s*{metric}\s*最高"],
        lambda named, span: [_call("highest", metric=named["metric"], since_s=(span or DAY_US) / 1e6)],
    ),
    _form(
        "frequent alarms",
        ["which alarms were most frequent in the last week?", "最近一周哪些告警最频繁?"],
        [r"(?:which|what) alarms? (?:are|were|is|was|come|came)\s*(?:raised )?(?:the )?(?:most )?"
         r"(?:frequent|often|common|noisy|chattering)", r".{0,20}(?:哪些|什么)(?:告警|报警)(?:最频繁|最多|最吵)"],
        lambda named, span: [_call("frequent_alarms", since_s=(span or WEEK_US) / 1e6)],
    ),
    _form(
        "standing",
        ["what is wrong?", "what is wrong with press-3?", "现在有什么问题?", "press-3有什么问题?"],
        [rf"what(?:'s| is| are)?\s*(?:the )?(?:wrong|matter|problems?|open incidents|standing|going on|broken){_AT}",
         rf"(?:are there|any|which|what|list|show)(?: me)?(?: any| the| open| standing| active)*\s*"
         rf"(?:alarms?|incidents?|problems?)(?: (?:stand|are|is))?(?: (?:standing|active|open|raised|there|now))*"
         rf"{_AT}\s*(?:now)?\Z",
         r"(?:现在|目前|当前)?(?:{device}\s*)?(?:现在|目前)?(?:有|出了?)(?:什么|哪些)(?:问题|故障|告警|报警)"],
        _standing,
    ),
    _form(
        "history",
        ["why did press-3 stop?", "what happened to press-3 since yesterday?", "press-3为什么报警?"],
        [r"(?:why|how come)\b.*?\bincident {incident}", r"explain (?:incident )?{incident}",
         r"what (?:happened|went wrong|caused (?:this|it|the alarm|the alarms))(?: (?:to|on|with|at) {device})?",
         r"why (?:is|was|did|does|do|are|has) (?:device )?{device}", r"{device}\s*(?:为什么|怎么了|发生了什么)",
         r"(?:发生了什么|为什么)"],
        _history,
    ),
    _form(
        "changes",
        ["what changed on press-3 in the last 2 days?", "who changed press-3?", "最近2天press-3有什么变化?"],
        [r"who (?:has |have )?(?:changed|modified|edited) (?:device )?{device}",
         rf"(?:what|who) (?:has |have |was |were )?(?:changed|modified|edited)(?: anything)?{_AT}",
         r".{0,12}?(?:{device}\s*)?(?:有什么(?:变化|变更|改动)|谁(?:改|修改)了)"],
        lambda named, span: [_call("changes", device=named["device"], since_s=(span or DAY_US) / 1e6)],
    ),
    _form(
        "actions",
        ["what was done about press-3?", "对press-3做了什么?"],
        [r"what (?:was|has been|did (?:you|we|anyone)) (?:done|do|tried|try)(?: (?:about|for|on|to|with) "
         r"(?:incident )?(?:{incident}|{device}))?",
         r"(?:对|针对)?(?:{device}\s*)?(?:做了什么|采取了(?:什么|哪些)措施)"],
        _actions,
    ),
    _form(
        "twin",
        ["is press-3 in sync?", "what does press-3 want?", "press-3同步了吗?"],
        [r"is (?:device )?{device} (?:in sync|up to date)",
         r"what (?:is desired of|does the hub want (?:of|from)) {device}", r"what does {device} want",
         r"{device}\s*(?:是否)?(?:同步|一致)"],
        lambda named, _: [_call("twin", device=named["device"])],
    ),
    _form(
        "value",
        ["what is temp.board of press-3?", "show cpu.load of press-3 in the last 6 hours", "press-3的cpu.load是多少?"],
        [r"(?:what (?:is|was|were)|show(?: me)?|give(?: me)?|how (?:high|low|hot|large) (?:is|was))\s+(?:the )?"
         r"(?:(?:value|values|course|average|mean|maximum|minimum) of )?{metric} (?:of|on|at|from) "
         r"(?:device )?{device}",
         r"{device}\s*的\s*{metric}"],
        _series,
    ),
    _form(
        "status",
        ["how is press-3?", "status of press-3", "press-3的状态如何?"],
        [r"how (?:is|does|are) (?:device )?{device}",
         r"(?:what is the |show (?:me )?(?:the )?)?(?:status|state|condition) of (?:device )?{device}",
         r"tell me about (?:device )?{device}", r"{device}\s*(?:的?状态|怎么样|还好吗|正常吗)"],
        lambda named, _: [_call("device", device=named["device"]), *_standing(named, None),
                          _call("last_values", device=named["device"])],
    ),
)  # fmt: skip

_GROUPS = ("device", "metric", "incident", "where")
_IT = ("it", "它")


def normalized(question: str) -> str:
    """The question in lower case with single spaces, without the marks at its end."""
    return re.sub(r"\s+", " ", question[:MAX_QUESTION]).strip().rstrip("?!.？！。 ").lower()


def match(question: str, last_device: str = "") -> Match | None:
    """The first form that fits, or None. `last_device` is what "it" stands for, '' if the session has named none."""
    text, span_us = normalized(question), period_us(question)
    for form in FORMS:
        for pattern in form.patterns:
            found = pattern.match(text)
            named = _named(found, question, last_device) if found else None
            if named is not None:
                return Match(form=form.name, calls=tuple(form.build(named, span_us)), device=named["device"])
    return None


def _named(found: re.Match[str], question: str, last_device: str) -> dict[str, str] | None:
    """All named groups, '' where a pattern lacks one; None if "it" stands for nothing."""
    named = dict.fromkeys(_GROUPS, "") | found.groupdict(default="")
    if named["device"] in _IT:
        if not last_device:
            return None
        named["device"] = last_device
    if named["where"]:  # a condition may hold capitals: take it from the question as it was asked
        named["where"] = question[:MAX_QUESTION].strip().rstrip("?？ ")[-len(named["where"]) :]
    return named
