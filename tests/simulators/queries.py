"""Random fleets and conditions, conditions as text, and what a condition means: an evaluator in plain Python.

The evaluator shares nothing with the hub's own but the tree: it says of one device's documents True, False or None
(undefined), in the words of docs/twins.md.
"""

from __future__ import annotations

import operator
from typing import Any

from hypothesis import strategies as st

from cloud_hub.query.core.tree import And, Compare, Condition, In, Is, Literal, Not, Operand, Or, Path, Scalar, TextTest

MISSING = object()
View = dict[str, Any]
"""A device as `SELECT *` shows it."""

# -- meaning -----------------------------------------------------------------------------------------


def kind(value: Any) -> str:
    if value is MISSING:
        return "missing"
    if value is None:
        return "null"
    names = {bool: "bool", int: "number", float: "number", str: "string", dict: "object", list: "array"}
    return names[type(value)]


def at(view: View, operand: Operand) -> Any:
    if isinstance(operand, Literal):
        return operand.value
    names = operand.names
    if operand.root == "tags":
        names = ("tags", *names)
    elif operand.document:
        names = ("shadow", operand.document, *names)
    value: Any = view
    for name in names:
        value = value.get(name, MISSING) if isinstance(value, dict) else MISSING
    return value


COMPARE = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
           ">=": operator.ge}  # fmt: skip


def compared(op: str, left: Any, right: Any) -> bool | None:
    if kind(left) != kind(right) or kind(left) not in {"null", "bool", "number", "string"}:
        return None
    if left is None:
        return op in {"=", "<=", ">="}
    return bool(COMPARE[op](left, right))


def any_of(words: list[bool | None]) -> bool | None:
    return True if True in words else None if None in words else False


def opposite(word: bool | None) -> bool | None:
    return None if word is None else not word


def meaning(view: View, node: Condition) -> bool | None:
    match node:
        case And(parts):
            return opposite(any_of([opposite(meaning(view, part)) for part in parts]))
        case Or(parts):
            return any_of([meaning(view, part) for part in parts])
        case Not(inner):
            return opposite(meaning(view, inner))
        case Is(wanted, path):
            found = kind(at(view, path))
            return found != "missing" if wanted == "defined" else found == wanted
        case In(path, values):
            return any_of([compared("=", at(view, path), value) for value in values])
        case TextTest(verb, path, part):
            text = at(view, path)
            if not isinstance(text, str):
                return None
            return {"startswith": text.startswith, "endswith": text.endswith, "contains": text.__contains__}[verb](part)
        case Compare(op, left, right):
            return compared(op, at(view, left), at(view, right))


# -- random ones -------------------------------------------------------------------------------------

NAMES = ["a", "b", "a b", "x.y", "it's", "é", "%", "0", "in", "--"]
TEXTS = ["", "a", "A", "b", "ab", "a%", "%", "_", "1", "true", "null", "é", "𝄞", "z", "it's", '"', "\\", "');--", "{}"]
NUMBERS = [0, 1, -1, 2, 10, 1.0, 0.1, 0.5, -2.5, 1e300, 1e-300, 1e16, 2**53, 2**53 + 1, 0.1 + 0.2, 123456789.123456789]
scalars: st.SearchStrategy[Scalar] = st.one_of(
    st.sampled_from(TEXTS), st.sampled_from(TEXTS), st.sampled_from(NUMBERS), st.booleans(), st.booleans(), st.none(),
    st.integers(-(10**15), 10**15), st.floats(allow_nan=False, allow_infinity=False), st.text("ab%_é", max_size=3),
)  # fmt: skip
names = st.sampled_from(["a"] * 16 + ["b"] * 4 + NAMES)  # few, so that conditions often find something
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.dictionaries(names, inner, max_size=3), st.lists(inner, max_size=2)),
    max_leaves=4,
)
OBJECTS = st.dictionaries(names, values, min_size=1, max_size=4)
SMALL = st.fixed_dictionaries({"a": scalars})
"""Objects with one value, which `small_conditions` are about: each of them finds something in many devices."""


def fleets(objects: st.SearchStrategy[Any] = OBJECTS) -> st.SearchStrategy[list[dict[str, Any]]]:
    documents = st.fixed_dictionaries({}, optional={"desired": objects, "reported": objects})
    one = st.fixed_dictionaries({
        "state": st.sampled_from(["online", "offline"]), "version": st.sampled_from(["", "1.2", "1.10"]),
        "seen_us": st.integers(0, 3), "tags": objects, "classic": st.none() | documents, "gates": st.none() | documents,
        "deleted": documents,
    })  # fmt: skip
    return st.lists(one, min_size=2, max_size=6)


def paths() -> st.SearchStrategy[Path]:
    below = st.one_of(st.tuples(names), st.tuples(names), st.tuples(names, names))
    device = st.sampled_from(["id", "state", "version", "seen_us"]).map(lambda name: Path("device", (name,)))
    tags = below.map(lambda found: Path("tags", found))
    twin = st.builds(
        lambda section, found, document: Path("twin", (section, *found), document),
        st.sampled_from(["desired", "reported"]), below, st.sampled_from(["", "", "gates", "gone"]),
    )  # fmt: skip
    return st.one_of(tags, tags, twin, twin, device)


def leaves(paths: st.SearchStrategy[Path]) -> st.SearchStrategy[Condition]:
    tests = st.sampled_from(["defined", "null", "bool", "number", "string", "object", "array"])
    literals = scalars.map(Literal)
    ops = st.sampled_from(list(COMPARE))
    return st.one_of(
        st.builds(Compare, ops, paths, literals),
        st.builds(Compare, ops, literals, paths),
        st.builds(Compare, ops, paths, paths),
        st.builds(In, paths, st.lists(scalars, min_size=1, max_size=4).map(tuple)),
        st.builds(Is, tests, paths),
        st.builds(TextTest, st.sampled_from(["startswith", "endswith", "contains"]), paths, st.sampled_from(TEXTS)),
        st.builds(TextTest, st.just("contains"), paths, st.sampled_from(["a", "%", "_"])),
    )


def small_conditions() -> st.SearchStrategy[Condition]:
    small_paths = st.sampled_from([Path("tags", ("a",)), Path("tags", ("a",)), Path("twin", ("desired", "a"), "gone")])
    return st.one_of(leaves(small_paths), leaves(small_paths).map(Not))


def conditions() -> st.SearchStrategy[Condition]:
    return st.recursive(
        leaves(paths()),
        lambda inner: st.one_of(
            inner.map(Not),
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: And(tuple(parts))),
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: Or(tuple(parts))),
        ),
        max_leaves=6,
    )


# -- as text -----------------------------------------------------------------------------------------


def quoted(value: Scalar) -> str:
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def place(operand: Operand) -> str:
    if isinstance(operand, Literal):
        return quoted(operand.value)
    found = [f"[[{name}]]" for name in operand.names]
    if operand.root == "device":
        return operand.names[0]
    if operand.root == "tags":
        return ".".join(["tags", *found])
    head = ["shadow", operand.document] if operand.document else []
    return ".".join([*head, operand.names[0], *found[1:]])


def written(node: Condition) -> str:
    """A text that is read as `node`. (`x NIN [..]` is written NOT x IN [..].)"""
    match node:
        case And(parts) | Or(parts):
            word = " AND " if isinstance(node, And) else " OR "
            return word.join(f"({written(part)})" for part in parts)
        case Not(inner):
            return f"NOT ({written(inner)})"
        case Is(wanted, path):
            return f"is_{wanted}({place(path)})"
        case In(path, values):
            return f"{place(path)} IN [{', '.join(map(quoted, values))}]"
        case TextTest(verb, path, part):
            return f"{verb}({place(path)}, {quoted(part)})"
        case Compare(op, left, right):
            return f"{place(left)} {op} {place(right)}"
