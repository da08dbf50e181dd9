"""The message catalogue: both languages say the same things, and texts reach nothing but their values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.incidents import desk
from cloud_hub.incidents.core.messages import LANGUAGES, TEXT, fill, placeholders

ENGLISH, CHINESE = (desk.catalogue(language) for language in LANGUAGES)
SOURCES = Path(desk.__file__).parent


def test_both_catalogues_have_the_same_keys_and_placeholders() -> None:
    assert ENGLISH.texts.keys() == CHINESE.texts.keys()
    for key, text in ENGLISH.texts.items():
        assert placeholders(text) == placeholders(CHINESE.texts[key]), key


def test_no_chinese_text_was_forgotten() -> None:
    same = {key for key, text in CHINESE.texts.items() if not re.search(r"[一-鿿]", text)}
    assert same <= {"joint", "signature", "output"}


def test_every_built_in_rule_and_cause_has_its_texts() -> None:
    for rule in desk.builtin_rules():
        assert {f"rule.{rule.spec.name}", f"cause.{rule.spec.cause}"} <= ENGLISH.texts.keys(), rule.spec.name
        known = {"metric", "value", "limit", "device", "evidence", "name"}
        assert placeholders(ENGLISH.texts[f"rule.{rule.spec.name}"]) <= known


def test_no_text_is_there_for_nothing() -> None:
    code = "\n".join(file.read_text("utf-8") for file in SOURCES.rglob("*.py"))
    code += (SOURCES.parent / "cli" / "desk.py").read_text("utf-8")
    rules = {f"rule.{rule.spec.name}" for rule in desk.builtin_rules()}
    causes = {f"cause.{rule.spec.cause}" for rule in desk.builtin_rules()} | {"cause.unknown"}
    for key in ENGLISH.texts.keys() - rules - causes:
        assert f'"{key}"' in code or key.startswith("cut."), key


@pytest.mark.parametrize("template", ["{0}", "{a.b}", "{a!r}", "{a:9999999}", "{a[0]}", "{", "}", "{A}", "{a:.99f}"])
def test_a_template_has_placeholders_of_one_form_only(template: str) -> None:
    with pytest.raises(ValueError, match="a placeholder is"):
        placeholders(template)


@given(st.text(), st.one_of(st.text(), st.floats()))
def test_any_value_is_filled_in_cleaned_and_bounded(template: str, value: str | float) -> None:
    text = fill(template.replace("{", "").replace("}", "") + "{a}{a:.2f}{b}", {"a": value})
    assert len(text) <= TEXT
    assert text.endswith("?") or len(text) == TEXT
    shown = fill("{a}", {"a": "<b>\u202e\x1b[2J" + str(value)})
    assert not re.search("[<>\u202e\x1b]", shown)
