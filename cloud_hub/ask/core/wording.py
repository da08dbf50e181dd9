"""Puts findings into words, in English and Chinese. Texts of devices and people are quoted and bounded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from cloud_hub.ask.core.facts import Fact, Finding, Language, Sentence
from cloud_hub.incidents.core.messages import sanitize

_EN = {
    "device": "{device} is {state}, profile {profile}, version {version}, last heard {seen_us}",
    "alarm": "alarm '{metric}' of {device}: {value} against the limit {limit} ({priority}, {state} since {raised_us})",
    "incident": "incident {id} of {device} about '{subject}' is {state}, opened {opened_us}; cause: {cause}",
    "explanation": "diagnosis of incident {id}: \"{explanation}\"",
    "action": "action {id} on {device}, '{action}', is {state}: \"{outcome}\"",
    "change": "{t_us}: {actor} did {kind} on {device} ('{subject}')",
    "event": "{t_us}: {device} reported ({level}): \"{text}\"",
    "value": "{metric} of {device} was {value} at {t_us} (quality {quality})",
    "series": "{metric} of {device} from {start_us} to {end_us}: mean {mean}, lowest {low}, "
              "highest {high}, last {last}, {count} samples",
    "in sync": "twin '{name}' of {device} is in sync: it reports what is desired",
    "difference": "twin '{name}' of {device} differs at {path}: desired {desired}, reported {reported}",
    "progress": "{device} reports '{path}' {state}: \"{reason}\"",
    "playbook": "playbook '{name}': {description} (parameters: {parameters})",
    "plan": "the draft of a plan with {steps} steps is valid; nobody has approved it: save it in the folder of"
            " playbooks, then `tidegate-hub playbook dry-run` and `run`",
    "count": "{count} devices match",
    "rank": "{device}: {value} ({count} samples)",
    "frequent": "alarm '{metric}' of {device} was raised {count} times",
    "total": "{count} alarms were raised in the period, {pages} pages were sent",
    "nothing": "nothing was found for {tool} ({arguments})",
    "more": "there are more than the {count} shown for {tool}",
    "refused": "{tool} found no answer: {reason}",
    "unread": "This question fits none of the forms that are answered without a language model. These are: {examples}",
    "found": "Found {count}:",
}  # fmt: skip
_ZH = {
    "device": "{device} 状态为 {state}，档案 {profile}，版本 {version}，最后收到消息于 {seen_us}",
    "alarm": "{device} 的告警“{metric}”：值 {value}，限值 {limit}（{priority}，{state}，始于 {raised_us}）",
    "incident": "事件 {id}：{device} 的“{subject}”，状态 {state}，开始于 {opened_us}；原因：{cause}",
    "explanation": "事件 {id} 的诊断：“{explanation}”",
    "action": "{device} 上的动作 {id}“{action}”：{state}，“{outcome}”",
    "change": "{t_us}：{actor} 对 {device} 执行了 {kind}（“{subject}”）",
    "event": "{t_us}：{device} 报告（{level}）：“{text}”",
    "value": "{device} 的 {metric} 在 {t_us} 为 {value}（质量 {quality}）",
    "series": "{device} 的 {metric}，{start_us} 至 {end_us}：平均 {mean}，最低 {low}，最高 {high}，"
    "最新 {last}，{count} 个样本",
    "in sync": "{device} 的孪生“{name}”已同步：上报与期望一致",
    "difference": "{device} 的孪生“{name}”在 {path} 处不一致：期望 {desired}，上报 {reported}",
    "progress": "{device} 报告“{path}”{state}：“{reason}”",
    "playbook": "剧本“{name}”：{description}（参数：{parameters}）",
    "plan": "计划草案有 {steps} 个步骤，检查通过；尚未获得批准："
    "请保存到剧本目录，再执行 `tidegate-hub playbook dry-run` 和 `run`",
    "count": "{count} 台设备符合条件",
    "rank": "{device}：{value}（{count} 个样本）",
    "frequent": "{device} 的告警“{metric}”触发了 {count} 次",
    "total": "该时段共触发 {count} 个告警，发出 {pages} 次通知",
    "nothing": "{tool}（{arguments}）没有找到结果",
    "more": "{tool} 的结果多于所示的 {count} 条",
    "refused": "{tool} 无法回答：{reason}",
    "unread": "这个问题不符合任何无需语言模型即可回答的形式。可用的形式：{examples}",
    "found": "找到 {count} 条：",
}
CATALOGUE: dict[Language, dict[str, str]] = {"en": _EN, "zh": _ZH}
LONGEST = 400
_NOT_COUNTED = ("nothing", "refused", "more")


def render(kind: str, data: dict[str, Any], language: Language) -> str:
    """The words for a finding. A diagnosis brings its explanation in each language."""
    if kind == "explanation":
        data = data | {"explanation": data[language]}
    return CATALOGUE[language][kind].format_map({key: shown(key, value) for key, value in data.items()})


def shown(key: str, value: Any) -> str:
    """A value in words: times as UTC, numbers with six digits, texts without control characters and bounded."""
    if key.endswith("_us") and isinstance(value, int):
        return instant(value)
    if isinstance(value, bool) or not isinstance(value, float):
        return sanitize(str(value), LONGEST)
    return f"{value:.6g}"


def instant(t_us: int) -> str:
    """A time as 2026-12-01 11:49:14Z; '?' outside the years that a calendar has."""
    try:
        return datetime.fromtimestamp(t_us / 1e6, tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return "?"


def to_facts(tool: str, findings: Sequence[Finding], language: Language, first: int) -> list[Fact]:
    """Facts with the ids E<first>, E<first + 1>, ..."""
    return [
        Fact(id=f"E{number}", tool=tool, kind=finding.kind, text=render(finding.kind, finding.data, language),
             data=finding.data)
        for number, finding in enumerate(findings, first)
    ]  # fmt: skip


def sentences(facts: Sequence[Fact], language: Language) -> tuple[Sentence, ...]:
    """The answer by template: how many facts were found, and each of them; no count before absences and refusals."""
    lines = tuple(Sentence(text=fact.text, cites=(fact.id,)) for fact in facts)
    counted = tuple(fact.id for fact in facts if fact.kind not in _NOT_COUNTED)
    if len(counted) < 2:
        return lines
    return (Sentence(text=render("found", {"count": len(counted)}, language), cites=counted), *lines)
