"""Judges properties, DataSets and templates. Source: specification 3.0, sections 6.4.7 to 6.4.15."""

from __future__ import annotations

from collections.abc import Iterator

from cloud_hub.scada.conformance.core.fields import BASIC_VALUES, Message, value_fields
from cloud_hub.scada.conformance.core.ledger import Case
from cloud_hub.scada.conformance.core.world import Definition
from shared.sparkplug.datatypes import DataType

BASIC_TYPES = frozenset(range(DataType.Int8, DataType.Text + 1))
"""Int8 to Text: the basic types of the specification."""
PROPERTY_TYPES = BASIC_TYPES | {int(DataType.PropertySet), int(DataType.PropertySetList)}
QUALITIES = frozenset({0, 192, 500})
QUALITY = "Quality"
MAX_UINT32 = 0xFFFF_FFFF


def check_properties(case: Case, metric: str, properties: Message, *, birth: bool) -> None:
    """Judge a PropertySet, and those inside it."""
    keys, values = properties.all("keys"), properties.all("values")
    case.check("property.counts", len(keys) == len(values), f"{metric}: {len(keys)} keys, {len(values)} values")
    for key, value in zip(keys, values, strict=False):
        place = f"{metric}.{key}"
        kind = value.get("type")
        if birth:
            case.check("property.type-birth", kind is not None, f"{place}: no type")
        if kind is not None:
            case.check("property.type-number", kind <= MAX_UINT32, f"{place}: type {kind}")
            case.check("property.type-known", kind in PROPERTY_TYPES, f"{place}: type {kind}")
        if key == QUALITY:
            _check_quality(case, place, value)
        for inner in _nested(value):
            check_properties(case, place, inner, birth=birth)


def _nested(value: Message) -> Iterator[Message]:
    yield from value.all("propertyset_value")
    for group in value.all("propertysets_value"):
        yield from group.all("propertyset")


def _check_quality(case: Case, place: str, value: Message) -> None:
    kind, given = value.get("type"), value.get("int_value")
    case.check("quality.type", kind in (None, DataType.Int32), f"{place}: type {kind}, not 3 (Int32)")
    case.check("quality.value", given in QUALITIES, f"{place}: {given}, in {value_fields(value) or 'no field'}")


def check_dataset(case: Case, metric: str, dataset: Message) -> None:
    """Judge a DataSet."""
    count, columns, types = dataset.get("num_of_columns"), dataset.all("columns"), dataset.all("types")
    case.check("dataset.columns", count == len(columns), f"{metric}: num_of_columns {count}, {len(columns)} columns")
    case.check("dataset.headers", len(columns) == len(types), f"{metric}: {len(columns)} columns, {len(types)} types")
    case.check("dataset.types-present", types or not columns, f"{metric}: no types")
    for kind in types:
        case.check("dataset.types-number", kind <= MAX_UINT32, f"{metric}: type {kind}")
        case.check("dataset.types-known", kind in BASIC_TYPES, f"{metric}: type {kind}")
    for row in dataset.all("rows"):
        for element in row.all("elements"):
            basic = [name for name in BASIC_VALUES if element.has(name)]
            case.check("dataset.values", len(basic) == 1, f"{metric}: an element has {len(basic)} basic values")


def definition_of(template: Message) -> Definition:
    """Names of the members and parameters of a template."""
    return Definition(
        members=frozenset(str(one.get("name")) for one in template.all("metrics")),
        parameters=frozenset(str(one.get("name")) for one in template.all("parameters")),
    )


def check_template(
    case: Case, metric: str, template: Message, definitions: dict[str, Definition], message: str, *, late: bool
) -> None:
    """Judge a template of a message of this type. `late`: the NBIRTH with the definitions was not seen."""
    birth = message.endswith("BIRTH")
    flag, reference = template.get("is_definition"), template.get("template_ref")
    case.check("template.flag", flag is not None, f"{metric}: is_definition is missing")
    if template.has("version"):
        case.check("template.version", True)
    _check_parameters(case, metric, template, birth=birth)
    if flag or (flag is None and reference is None):
        case.check("template.definition", flag, f"{metric}: a template without template_ref is no definition")
        case.check("template.only-nbirth", message == "NBIRTH", f"{metric}: a definition in {message}")
        case.check("template.definition-ref", reference is None, f"{metric}: a definition with template_ref")
        return
    case.check("template.instance", flag == 0, f"{metric}: an instance without is_definition = false")
    case.check("template.instance-ref", reference, f"{metric}: an instance without template_ref")
    if not late:
        _check_instance(case, metric, template, definitions.get(str(reference)), birth=birth)


def _check_instance(case: Case, metric: str, template: Message, definition: Definition | None, *, birth: bool) -> None:
    reference = template.get("template_ref")
    case.check("template.defined", definition is not None, f"{metric}: no definition of '{reference}' in the NBIRTH")
    if definition is None:
        return
    given = definition_of(template)
    foreign = sorted(given.members - definition.members)[:3]
    case.check("template.members", not foreign, f"{metric}: members {foreign} are not in '{reference}'")
    unknown = sorted(given.parameters - definition.parameters)[:3]
    if given.parameters:
        case.check("template.parameters", not unknown, f"{metric}: parameters {unknown} are not in '{reference}'")
        case.check("template.parameter-values", True)
    if birth:
        missing = sorted(definition.members - given.members)[:3]
        case.check("template.members-birth", not missing, f"{metric}: members {missing} of '{reference}' are missing")
    elif given.members < definition.members:
        case.check("template.members-data", True)


def _check_parameters(case: Case, metric: str, template: Message, *, birth: bool) -> None:
    for one in template.all("parameters"):
        name, kind = one.get("name"), one.get("type")
        place = f"{metric}({name})"
        case.check("parameter.name", name, f"{metric}: a parameter without name")
        if birth:
            case.check("parameter.type-birth", kind is not None, f"{place}: no type")
        if kind is not None:
            case.check("parameter.type-number", kind <= MAX_UINT32, f"{place}: type {kind}")
            case.check("parameter.type-known", kind in BASIC_TYPES, f"{place}: type {kind}")
        values = value_fields(one)
        if values:
            basic = len(values) == 1 and values[0] in BASIC_VALUES
            case.check("parameter.value", basic, f"{place}: values {values}")
            if template.get("is_definition"):
                case.check("template.parameter-defaults", True)
