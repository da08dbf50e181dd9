"""Redaction: what is replaced, what must stay, and that hostile texts cost no more time than others."""

from __future__ import annotations

import time

import pytest

from cloud_hub.inference.gateway.core.redaction import Redaction, Redactor, holds_image

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
    redacted, redaction = Redactor().redact_body(body)
    assert redacted["model"] == "a@b.cd"
    assert redacted["messages"][0]["content"] == "[EMAIL-1] and [EMAIL-1]"
    assert redacted["messages"][1]["content"][0]["text"] == "[EMAIL-2]"
    assert redacted["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"to": "[EMAIL-1]"}'
    assert redacted["metadata"] == {"who": "[EMAIL-1]"}
    assert redaction.counts == {"EMAIL": 5}
    assert body["messages"][0]["content"] == "a@b.cd and a@b.cd"  # type: ignore[index]


def test_images_are_noticed() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    assert holds_image({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, image]}]})
    assert not holds_image({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}, "odd"]})


@pytest.mark.parametrize("piece", ["a@", "1 ", "1-", "password=", "-----BEGIN PRIVATE KEY-----", "eyJ" + "a" * 20 + ".",
                                   "://a:", "DE89 ", "+1 2 ", "bearer "])  # fmt: skip
def test_hostile_text_is_redacted_in_linear_time(piece: str) -> None:
    small, large = piece * (20_000 // len(piece)), piece * (200_000 // len(piece))
    redact(small)
    start = time.thread_time()
    redact(large)
    assert time.thread_time() - start < 2.0
