"""Redaction: what is replaced, what must stay, and that hostile texts cost no more time than others."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.inference.gateway.core import redaction
from cloud_hub.inference.gateway.core.redaction import (
    LONG_RECOGNIZERS,
    RECOGNIZERS,
    Redaction,
    Redactor,
    holds_image,
)

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----"


def redact(text: str, *words: str) -> str:
    return Redactor(words).redact_text(text, Redaction())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail li.wei@acme.com.cn now", "mail [EMAIL-1] now"),
        ("请联系13812345678处理", "请联系[PHONE-1]处理"),
        ("call +49 30 1234 5678.", "call [PHONE-1]."),
        ("id 11010519491231002X", "id [ID-NUMBER-1]"),
        ("card 4111 1111 1111 1111", "card [CARD-1]"),
        ("pay to DE89 3704 0044 0532 0130 00 today", "pay to [IBAN-1] today"),
        ("password = hunter22", "password = [SECRET-1]"),
        ('{"api_key": "abcd1234"}', '{"api_key": "[SECRET-1]"}'),
        ("密码：Abc12345", "密码：[SECRET-1]"),
        ("mqtt://hub:pa55w0rd@broker:1883", "mqtt://hub:[SECRET-1]@broker:1883"),
        ("Authorization: Bearer abcdefghijklmnop", "Authorization: Bearer [SECRET-1]"),
        ("tg_0123456789012345678901234567890123456789abc", "[SECRET-1]"),
        ("AKIAIOSFODNN7EXAMPLE", "[SECRET-1]"),
        (f"key: {KEY} end", "key: [PRIVATE-KEY-1] end"),
        ('{"card": 4111111111111111, "n": 1}', '{"card": "[CARD-1]", "n": 1}'),
        ('{"Mobile phone":13812345678}', '{"Mobile phone":"[PHONE-1]"}'),
        ('{"手机": 13812345678}', '{"手机": "[PHONE-1]"}'),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0x.c2lnbmF0dXJl", "[SECRET-1]"),
    ],
)
def test_secrets_and_personal_data_are_replaced(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "motor 3 at 1733000000123456 us: 13.8 A, 40000000000000001 counts",
        "card 4111 1111 1111 1112", "id 110105194912310021", "t=1733011200 v=4.2e-13",
        "serial 2026-11-30 08:15:42.123456", "192.168.10.7:1883", "press-3/line-camera/age_s > 5",
        '{"t_us":1800000000000000,"bytes": 15032385536}', "1800000000000000",
        "uuid 0193a5b2-7c1d-7e3a-9f00-1234567890ab",
    ],
)  # fmt: skip
def test_numbers_and_names_of_machines_stay(text: str) -> None:
    assert redact(text) == text


def test_words_of_the_site_are_replaced_in_any_case_and_only_whole() -> None:
    words = ("Kestrel", "Kestrel Valve", "红隼")
    assert redact("KESTREL valve in kestrel; kestrels; 在Kestrel工厂, 红隼阀", *words) == (
        "[WORD-1] in [WORD-2]; kestrels; 在[WORD-3]工厂, [WORD-4]阀"
    )


def test_a_body_is_redacted_everywhere_but_in_the_fields_of_the_protocol() -> None:
    body = {
        "model": "a@b.cd",
        "messages": [
            {"role": "user", "content": "a@b.cd and a@b.cd"},
            {"role": "user", "content": [{"type": "text", "text": "x@y.zz"}]},
            {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"arguments": '{"to": "a@b.cd"}'}}]},
        ],
        "metadata": {"who": "a@b.cd"},
        "temperature": 0,
    }
    redacted, made = Redactor().redact_body(body)
    assert redacted["model"] == "a@b.cd"
    assert redacted["messages"][0]["content"] == "[EMAIL-1] and [EMAIL-1]"
    assert redacted["messages"][1]["content"][0]["text"] == "[EMAIL-2]"
    assert redacted["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"to": "[EMAIL-1]"}'
    assert redacted["metadata"] == {"who": "[EMAIL-1]"}
    assert made.counts == {"EMAIL": 5}
    assert body["messages"][0]["content"] == "a@b.cd and a@b.cd"  # type: ignore[index]


def test_numbers_of_a_body_are_redacted_but_not_those_of_the_protocol_and_of_schemas() -> None:
    card, tool = 4111111111111111, {"function": {"name": "f", "parameters": {"maximum": 4111111111111111}}}
    body = {"seed": card, "tools": [tool], "metadata": {"card": card, "tel": [13812345678, 5], "count": 15032385536}}
    redacted, made = Redactor().redact_body(body)
    assert (redacted["seed"], redacted["tools"]) == (card, [tool])
    assert redacted["metadata"] == {"card": "[CARD-1]", "tel": ["[PHONE-1]", 5], "count": 15032385536}
    assert made.counts == {"CARD": 1, "PHONE": 1}


# -- properties ----------------------------------------------------------------------------------------

SAMPLES = {
    "PRIVATE-KEY": KEY, "URL-PASSWORD": "mqtt://hub:pa55w0rd@broker", "WORD": "Kestrel",
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0x.c2lnbmF0dXJl", "TOKEN": "AKIAIOSFODNN7EXAMPLE",
    "BEARER": "bearer abcdefghijklmnop", "PASSWORD": "password = hunter22", "EMAIL": "li.wei@acme.com.cn",
    "ID-NUMBER": "11010519491231002X", "IBAN": "DE89 3704 0044 0532 0130 00", "CARD": "4111 1111 1111 1111",
    "PHONE": "13812345678", "PHONE+": "+49 30 1234 5678", "JSON-ID": '"id": 110105199001010029',
    "JSON-CARD": '"card": 4111111111111111', "JSON-PHONE": '"phone": 1381234567',
}  # fmt: skip
"""A value for each recognizer that no other one finds."""
FILLER = st.text("ab c.\n", max_size=60)


def leak(redactor: Redactor, texts: list[tuple[str, str]]) -> str:
    """The kind of a value that is still there after the redaction of all, each after its filler, or ''."""
    whole = "".join(f"{filler}\n{SAMPLES[kind]}\n" for filler, kind in texts)
    redacted = redactor.redact_text(whole, Redaction())
    return next((kind for _, kind in texts if SAMPLES[kind] in redacted), "")


@given(st.lists(st.tuples(FILLER, st.sampled_from(sorted(SAMPLES))), max_size=12), st.integers(20, 200))
def test_no_value_of_any_kind_survives_wherever_a_long_text_is_cut(texts: list[tuple[str, str]], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redaction, "PART", size)
        assert not leak(Redactor(["Kestrel"]), texts)


def test_each_recognizer_that_is_skipped_lets_a_value_through() -> None:
    every = [("x", kind) for kind in SAMPLES]
    assert not leak(Redactor(["Kestrel"]), every)
    assert leak(Redactor(), every) == "WORD"
    missed = set()
    for skipped in RECOGNIZERS + LONG_RECOGNIZERS:
        long, short = (tuple(r for r in table if r is not skipped) for table in (LONG_RECOGNIZERS, RECOGNIZERS))
        missed.add(leak(Redactor(["Kestrel"], long, short), every))
    assert missed == set(SAMPLES) - {"WORD"}


class CutsAnywhere(Redactor):
    """A seeded bug: parts end where they end."""

    def redact_text(self, text: str, redaction: Redaction) -> str:
        return "".join(super(CutsAnywhere, self).redact_text(text[n : n + 50], redaction)
                       for n in range(0, len(text), 50))  # fmt: skip


def test_a_cut_within_a_value_lets_it_through() -> None:
    assert leak(CutsAnywhere(), [("a" * 40, "EMAIL")]) == "EMAIL"


def test_images_are_noticed() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    assert holds_image({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, image]}]})
    assert not holds_image({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}, "odd"]})


@pytest.mark.parametrize("piece", ["a@", "1 ", "1-", "password=", "-----BEGIN PRIVATE KEY-----", "eyJ" + "a" * 9,
                                   "://a:", "DE89 ", "+1 2 ", "bearer ", '"', '"tel', "a@b.cd "])  # fmt: skip
def test_hostile_text_is_redacted_in_linear_time(piece: str) -> None:
    small, large = piece * (20_000 // len(piece)), piece * (200_000 // len(piece))
    redact(small)
    start = time.thread_time()
    redact(large)
    assert time.thread_time() - start < 2.0
