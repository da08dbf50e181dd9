"""Loads what a diagnosis needs besides the evidence: the rules, the site's own, the decision tree, and the texts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tomllib

from cloud_hub.incidents.core.messages import DEFAULT, LANGUAGES, Catalogue
from cloud_hub.incidents.core.rule_table import CURE, Rule, RuleFile, combine, compile_rules
from cloud_hub.incidents.core.rules import RuleBook
from cloud_hub.incidents.core.tree import Tree
from cloud_hub.settings import Desk as DeskSettings
from cloud_hub.yaml_files import decode
from shared.errors import ConfigError

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """The rules, and the texts in the language of the hub."""

    book: RuleBook
    catalogue: Catalogue


@cache
def catalogue(language: str = DEFAULT) -> Catalogue:
    """The texts of a language; those of the default for one that there is not."""
    language = language if language in LANGUAGES else DEFAULT
    texts = tomllib.loads((HERE / "messages" / f"{language}.toml").read_text("utf-8"))
    return Catalogue(language=language, texts=texts)


@cache
def builtin_rules() -> tuple[Rule, ...]:
    """The rules of this version."""
    text = (HERE / "rules.yaml").read_text("utf-8")
    return compile_rules(decode(text, RuleFile, "rules.yaml", CURE).rules, "rules.yaml")


@cache
def builtin_tree() -> Tree | None:
    """The decision tree of this version, if it has one."""
    file = HERE / "tree.yaml"
    return decode(file.read_text("utf-8"), Tree, file.name, "Train it again") if file.is_file() else None


def read_rules(file: Path) -> RuleFile:
    """The rules and tests of a site's file; raises ConfigError that names the line."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            str(file), f"cannot be read ({error})", "Correct desk.rules_file, or the file's owner"
        ) from error
    return decode(text, RuleFile, str(file), CURE)


def open_desk(settings: DeskSettings | None = None) -> Desk:
    """The desk of some settings; raises ConfigError if the site's file is wrong."""
    settings = settings or DeskSettings()
    own: tuple[Rule, ...] = ()
    if settings.rules_file:
        own = compile_rules(read_rules(Path(settings.rules_file)).rules, settings.rules_file)
    return Desk(book=_book(own, settings.tree), catalogue=catalogue(settings.language))


def _book(own: tuple[Rule, ...], tree: bool = True) -> RuleBook:
    names = frozenset(rule.spec.name for rule in own)
    return RuleBook(rules=combine(own, builtin_rules()), tree=builtin_tree() if tree else None, own=names)
