"""Draws a plan as Mermaid and as SVG, with the states of a run's steps. Every text in it is untrusted and escaped."""

from __future__ import annotations

from collections.abc import Mapping
from xml.sax.saxutils import escape

from cloud_hub.playbooks.core.graph import layers
from cloud_hub.playbooks.core.plan import Plan, PlanStep

COLOURS = {
    "pending": "#e5e7eb", "waiting": "#fde68a", "running": "#93c5fd", "succeeded": "#86efac", "failed": "#fca5a5",
    "skipped": "#f3f4f6", "cancelled": "#d1d5db", "undoing": "#fdba74", "undone": "#fed7aa",
}  # fmt: skip
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 190, 52, 30, 46, 20
LONGEST = 28
"""Characters of one line in a box."""

States = Mapping[str, str]


def mermaid(plan: Plan, states: States | None = None) -> str:
    """A flowchart in Mermaid's language."""
    number = {step.id: f"s{place}" for place, step in enumerate(plan.steps)}
    lines = ["flowchart TD"]
    for step in plan.steps:
        label = "<br/>".join(_entities(text) for text in _label(step))
        left, right = {"wait": ("([", "])"), "join": ("[[", "]]")}.get(step.kind, ("[", "]"))
        lines.append(f'  {number[step.id]}{left}"{label}"{right}')
    for step in plan.steps:
        condition = f'|"{_entities(_short("when " + step.when))}"|' if step.when else ""
        lines += [f"  {number[need]} -->{condition} {number[step.id]}" for need in step.needs]
    for name, state in (states or {}).items():
        if name in number:
            lines.append(f"  style {number[name]} fill:{COLOURS.get(state, '#ffffff')}")
    return "\n".join(lines) + "\n"


def svg(plan: Plan, states: States | None = None) -> str:
    """A picture of the graph, layer by layer from the top."""
    rows = _ordered(plan)
    widest = max(len(row) for row in rows)
    width = widest * (WIDTH + GAP_X) - GAP_X + 2 * MARGIN
    height = len(rows) * (HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    places = {
        name: ((width - len(row) * (WIDTH + GAP_X) + GAP_X) // 2 + column * (WIDTH + GAP_X),
               MARGIN + depth * (HEIGHT + GAP_Y))
        for depth, row in enumerate(rows) for column, name in enumerate(row)
    }  # fmt: skip
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{_xml(plan.playbook)}</title>",
        '<defs><marker id="arrow" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#6b7280"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for step in plan.steps:
        parts += [_edge(places[need], places[step.id]) for need in step.needs]
    parts += [_box(step, places[step.id], (states or {}).get(step.id, "")) for step in plan.steps]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _ordered(plan: Plan) -> list[list[str]]:
    """The layers; within one, steps stand below the middle of those that they need, which crosses few lines."""
    graph, column = plan.graph(), dict[str, float]()
    rows = layers(graph)
    for row in rows:
        middle = {name: sum(column[need] for need in graph[name]) / (len(graph[name]) or 1) for name in row}
        row.sort(key=lambda name: middle[name])
        column |= {name: place - len(row) / 2 for place, name in enumerate(row)}
    return rows


def _edge(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1, x2, y2 = start[0] + WIDTH // 2, start[1] + HEIGHT, end[0] + WIDTH // 2, end[1]
    bend = (y2 - y1) // 2
    return (f'<path d="M{x1},{y1} C{x1},{y1 + bend} {x2},{y2 - bend} {x2},{y2}" fill="none" stroke="#6b7280" '
            'marker-end="url(#arrow)"/>')  # fmt: skip


def _box(step: PlanStep, place: tuple[int, int], state: str) -> str:
    x, y = place
    first, *more = _label(step)
    about = " ".join(filter(None, (step.id, step.title, step.when and f"when {step.when}", state)))
    lines = [f'<text x="{x + 10}" y="{y + 21}" font-weight="bold">{_xml(first)}</text>']
    detail = " · ".join(filter(None, (*more, state)))
    lines.append(f'<text x="{x + 10}" y="{y + 39}" fill="#374151">{_xml(_short(detail))}</text>')
    dash = ' stroke-dasharray="4 3"' if step.when else ""
    return (f'<g><title>{_xml(about)}</title><rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" '
            f'rx="{24 if step.kind == "wait" else 6}" fill="{COLOURS.get(state, "#ffffff")}" stroke="#374151"{dash}/>'
            + "".join(lines) + "</g>")  # fmt: skip


def _label(step: PlanStep) -> list[str]:
    """The name, and what is done, in short."""
    what = {"action": f"{step.action} {step.device}".strip(), "wait": f"wait {step.wait_s:g} s", "join": ""}[step.kind]
    if step.rounds > 1:
        what += f" up to {step.rounds} times"
    return [_short(text) for text in (step.title or step.id, what) if text]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _xml(text: str) -> str:
    """As content of an element: without what XML 1.0 cannot hold, and without characters that turn text around."""
    shown = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return escape(shown, {'"': "&quot;", "'": "&#39;"})


def _entities(text: str) -> str:
    """As Mermaid's entity codes, except plain letters, digits and a few marks."""
    return "".join(c if (c.isalnum() and c.isprintable()) or c in " .,_" else f"#{ord(c)};" for c in text)
