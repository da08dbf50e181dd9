"""YAML that people write: a fault names file, line and cure, and no text makes the reader fail otherwise."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.yaml_files import MAX_CHARS, decode
from shared.errors import ConfigError


class Row(msgspec.Struct, forbid_unknown_fields=True):
    a: int
    name: str = ""


class File(msgspec.Struct, forbid_unknown_fields=True):
    rows: list[Row]


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("rows:\n  - a: 1\n  - a: x", "f.yaml, line 3", "Expected `int`"),
        ("rows:\n  - a: 1\n    nam: x", "f.yaml, line 3", "did you mean 'name'?"),
        ("rows:\n  - name: x", "f.yaml, line 2", "missing required field `a`"),
        ("rows:\n  - &x {a: 1}\n  - *x", "f.yaml, line 3", "aliases"),
        ("rows: []\nrows: []", "f.yaml, line 2", "'rows' stands twice"),
        ("rows:\n  - {[a]: 1}", "f.yaml, line 2", "a key must be a plain text"),
        ("rows: [", "f.yaml, line 1", "no valid YAML"),
        ("rows: !!python/object:os.system []", "f.yaml, line 1", "tag"),
        ('rows:\n  - !!timestamp "x"', "f.yaml, line 2", "tags"),
        ('rows:\n  - !!bool "x"', "f.yaml, line 2", "tags"),
        ('rows:\n  - !!int ""', "f.yaml, line 2", "tags"),
        ("!!map [a]", "f.yaml, line 1", "tags"),
        ('rows:\n  - {a: 1, name: "\\ud800"}', "f.yaml, line 2", "surrogate"),
        ('rows:\n  - {"\\ud800": 1}', "f.yaml, line 2", "surrogate"),
        ("", "f.yaml, line 1", "missing required field `rows`"),
        ("- 1", "f.yaml, line 1", "Expected `object`"),
        ("[" * 5000, "f.yaml", "nested too deeply"),
        ("x: \x01", "f.yaml", "no valid YAML"),
        ("rows: [{a: 2020-99-99}]", "f.yaml", "no valid YAML"),
        ("#" * (MAX_CHARS + 1), "f.yaml", "longer than"),
    ],
)
def test_a_fault_names_file_line_and_cure(text: str, place: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(text, File, "f.yaml", "Correct the line")
    assert caught.value.place == place
    assert reason in caught.value.reason
    assert caught.value.cure


@given(st.text(alphabet=st.sampled_from("rowsa: -[]{}*&!|>'\"\n\t#%@,?1x\x00é"), max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    read = None
    with contextlib.suppress(ConfigError):
        read = decode(text, File, "f.yaml", "Correct the line")
    assert read is None or isinstance(read, File)


def test_a_right_file_is_read() -> None:
    assert decode("rows:\n  - {a: 1, name: 前}", File, "f.yaml", "") == File(rows=[Row(a=1, name="前")])
