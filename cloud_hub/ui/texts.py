"""The texts of the pages, one TOML file a language, as in `incidents.messages`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import tomllib

from cloud_hub.incidents.core.messages import DEFAULT, LANGUAGES, Catalogue

HERE = Path(__file__).parent / "messages"
NAMES = {"en": "English", "zh": "中文"}
"""Languages by their own names."""


@cache
def catalogue(language: str = DEFAULT) -> Catalogue:
    """The texts of a language; those of the default for one that there is not."""
    language = language if language in LANGUAGES else DEFAULT
    return Catalogue(language=language, texts=tomllib.loads((HERE / f"{language}.toml").read_text("utf-8")))
