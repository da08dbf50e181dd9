"""Makes HTML of templates. Everything is escaped; a template that names what it is not given fails."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from cloud_hub.errors import HubError
from cloud_hub.incidents import desk
from cloud_hub.incidents.core.messages import LANGUAGES, Catalogue, preferred_language
from cloud_hub.ui import assets, texts
from cloud_hub.ui.session import Viewer

HERE = Path(__file__).parent / "templates"
LANGUAGE_COOKIE, THEME_COOKIE = "tidegate_language", "tidegate_theme"
THEMES = ("auto", "light", "dark")


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"when": when, "number": number, "short": short, "key": key}
    return made


def base(request: Request) -> str:
    """The way from the page to /ui/: '' or '../' for each folder."""
    return "../" * max(0, request.url.path.removeprefix("/ui/").count("/"))


def language(request: Request) -> str:
    """The language of the cookie, else the one that the browser prefers."""
    chosen = request.cookies.get(LANGUAGE_COOKIE, "")
    return chosen if chosen in LANGUAGES else preferred_language(request.headers.get("accept-language", "")) or "en"


def _common(request: Request) -> dict[str, Any]:
    words = texts.catalogue(language(request))
    theme = request.cookies.get(THEME_COOKIE, "auto")
    up = base(request)
    return {
        "t": partial(_text, words), "label": partial(_label, words), "cause": desk.catalogue(words.language).cause,
        "language": words.language,
        "languages": texts.NAMES, "theme": theme if theme in THEMES else "auto", "themes": THEMES, "base": up,
        "asset": lambda name: f"{up}{assets.address(name)}", "caller": None, "csrf": "", "may": lambda power: False,
        "section": "", "stream": "", "here": _here(request),
    }  # fmt: skip


def _here(request: Request) -> str:
    """The page relative to /ui/, with its parameters, to come back to."""
    query = f"?{request.url.query}" if request.url.query and request.method == "GET" else ""
    return request.url.path.removeprefix("/ui/") + query


def _text(words: Catalogue, key: str, **values: object) -> str:
    return words.text(key, **{name: value if isinstance(value, str) else f"{value}" for name, value in values.items()})


def _label(words: Catalogue, kind: str, value: object) -> str:
    """The text of a value such as a state; the value itself if there is none."""
    return words.texts.get(f"{kind}.{value}", f"{value}")


def page(viewer: Viewer, template: str, **context: Any) -> HTMLResponse:
    """The page of a template for a viewer."""
    values = _common(viewer.request) | {
        "caller": viewer.caller, "csrf": viewer.session.csrf, "may": viewer.may
    } | context  # fmt: skip
    return HTMLResponse(_environment().get_template(template).render(values))


def public(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A page for somebody without a session."""
    return HTMLResponse(_environment().get_template(template).render(_common(request) | context), status)


def error(request: Request, problem: HubError) -> str:
    """The page of an error, or its lines alone for htmx."""
    fragment = request.headers.get("hx-request") == "true"
    template = _environment().get_template("error_fragment.html" if fragment else "error.html")
    return template.render(_common(request) | {"problem": problem})


# -- filters -----------------------------------------------------------------------------------------


def when(t_us: int | None, style: str = "full") -> Markup:
    """A time in UTC; the page writes it in the viewer's zone. `style` is full, or ago for the time since."""
    if not t_us or not 0 < t_us < 253_402_300_800_000_000:
        return Markup("<span class=none>–</span>")
    moment = datetime.fromtimestamp(t_us / 1e6, timezone.utc)
    text = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}" data-style="{}">{}</time>').format(moment.isoformat(), escape(style), text)


def number(value: object) -> str:
    """A number as people read it; other values as they are."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"{value}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e6 else f"{value:.4g}"


def short(value: object, limit: int = 200) -> str:
    """A value of a device as one bounded line."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def key(value: str) -> str:
    """A name for an element, made of an id that a device chose."""
    return f"k{hashlib.sha256(value.encode('utf-8', 'replace')).hexdigest()[:16]}"
