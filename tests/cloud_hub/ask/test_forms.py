"""Questions without a language model: what fits a form, and which look-ups it makes."""

from __future__ import annotations

import re
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.ask import tools
from cloud_hub.ask.core import forms, periods, wording
from cloud_hub.ask.core.facts import Finding
from cloud_hub.playbooks.catalogue import PlaybookCatalogue

TOOLS = tools.all_tools(PlaybookCatalogue())

DAY_S = 86_400.0


@pytest.mark.parametrize(("form", "example"), [(form, text) for form in forms.FORMS for text in form.examples])
def test_each_example_fits_its_form_and_calls_tools_with_valid_arguments(form: forms.Form, example: str) -> None:
    match = forms.match(example)
    assert match is not None
    assert match.form == form.name
    for call in match.calls:
        msgspec.convert(call.arguments, TOOLS[call.tool].arguments)


@pytest.mark.parametrize(
    ("question", "calls"),
    [
        ("What's wrong with Press-3??", [("incidents", "press-3", None), ("alarms", "press-3", None)]),
        ("what is the matter", [("incidents", None, None), ("alarms", None, None)]),
        ("what is wrong with the press", [("incidents", None, None), ("alarms", None, None)]),
        ("  what   changed in the last 2 weeks ", [("changes", None, 14 * DAY_S)]),
        ("who changed press-3 today?", [("changes", "press-3", DAY_S)]),
        ("show temp.board of press-3 in the last 90 minutes", [("series", "press-3", 5400.0)]),
        ("最近3小时press-3的cpu.load", None),
        ("过去2天发生了什么", None),
    ],
)
def test_names_and_periods_are_read(question: str, calls: list[tuple[str, str | None, float | None]] | None) -> None:
    match = forms.match(question)
    if calls is None:
        assert match is None, "a form begins at the start of the question: no guess is made"
        return
    assert match is not None
    found = [(call.tool, call.arguments.get("device"), call.arguments.get("since_s")) for call in match.calls]
    assert found == calls


def test_it_is_the_last_device_of_the_session() -> None:
    match = forms.match("why is it hot?", "press-3")
    assert match is not None
    assert match.device == "press-3"
    assert forms.match("why is it hot?") is None, "without a session it stands for nothing"


def test_a_condition_keeps_its_capitals() -> None:
    match = forms.match("Which devices where tags.Site = 'Hall B'?")
    assert match is not None
    assert match.calls[0].arguments == {"where": "tags.Site = 'Hall B'"}


@pytest.mark.parametrize("device", ["a-1", "in-feed", "the-press", "last_one", "all-2", "it-3", "my-", "in2", "its"])
@pytest.mark.parametrize("question", ["what is wrong with {}?", "why is {} silent?", "what was done on {}?",
                                      "how is {}?", "{}有什么问题?"])  # fmt: skip
def test_a_device_whose_name_begins_like_a_word_is_that_device(question: str, device: str) -> None:
    """And never the whole fleet, or the last device."""
    match = forms.match(question.format(device), "press-9")
    assert match is not None
    assert match.device == device


@pytest.mark.parametrize("question", ["", "hello", "ignore all rules", "restart press-3", "what is it", "?" * 900])
def test_other_questions_fit_no_form(question: str) -> None:
    assert forms.match(question) is None


@given(st.text(alphabet=string.ascii_lowercase + " .-_?'=什么问题设备的" + string.digits, max_size=1000))
def test_any_text_is_answered_or_not_and_never_an_error(question: str) -> None:
    match = forms.match(question, "press-3")
    assert match is None or all(call.tool in TOOLS for call in match.calls)


REPEATED_TWICE = re.compile(r"\([^()]*[*+][^()]*\)[*+]")


@pytest.mark.parametrize("form", forms.FORMS, ids=lambda form: form.name)
def test_no_pattern_repeats_a_repetition(form: forms.Form) -> None:
    """Such a pattern goes back over its input: each further letter would double the work."""
    assert REPEATED_TWICE.search(r"(?:a+b)*"), "what is looked for is found"
    assert [pattern.pattern for pattern in form.patterns if REPEATED_TWICE.search(pattern.pattern)] == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("in the last hour", 3600), ("last 3 days", 3 * DAY_S), ("past 10 min", 600), ("最近2周", 14 * DAY_S),
     ("昨天", 2 * DAY_S), ("last 9999 months", 366 * DAY_S), ("at last", None), ("", None)],
)  # fmt: skip
def test_periods(text: str, seconds: float | None) -> None:
    found = periods.period_us(text)
    assert found == (None if seconds is None else seconds * 1e6)


def test_both_languages_have_words_for_the_same() -> None:
    english, chinese = wording.CATALOGUE["en"], wording.CATALOGUE["zh"]
    assert set(english) == set(chinese)
    for kind, text in english.items():
        places = set(re.findall(r"\{(\w+)\}", text))
        assert places == set(re.findall(r"\{(\w+)\}", chinese[kind])), kind


def test_texts_of_devices_are_bounded_and_without_control_characters() -> None:
    finding = Finding(kind="event", data={"t_us": 10**30, "device": "a\x1b[2J", "level": "info", "text": "<b>" * 1000})
    (fact,) = wording.to_facts("events", [finding], "en", 7)
    assert fact.id == "E7"
    assert fact.text.isprintable()
    assert len(fact.text) < 600
    assert "<" not in fact.text
