"""Rules for properties, DataSets and templates."""

from __future__ import annotations

from cloud_hub.scada.conformance.core.rules import rule

_COMPLEX = "E complex publishes must"
_P, _D, _T = "payloads-metric-propertyvalue", "payloads-dataset", "payloads-template"

COMPLEX_RULES = (
    rule("property.counts", _COMPLEX, "a PropertySet has as many keys as values",
         "payloads-propertyset-keys-array-size payloads-propertyset-values-array-size"),
    rule("property.type-number", _COMPLEX, "types of properties are 32-bit unsigned integers", f"{_P}-type-type"),
    rule("property.type-known", _COMPLEX, "types of properties are basic types, PropertySet or PropertySetList",
         f"{_P}-type-value"),
    rule("property.type-birth", _COMPLEX, "properties of births have a type", f"{_P}-type-req"),
    rule("quality.type", _COMPLEX, "the property Quality is Int32", "payloads-propertyset-quality-value-type"),
    rule("quality.value", _COMPLEX, "the property Quality is 0, 192 or 500",
         "payloads-propertyset-quality-value-value"),
    rule("dataset.columns", _COMPLEX, "num_of_columns is the number of columns", f"{_D}-column-size"),
    rule("dataset.headers", _COMPLEX, "a DataSet has as many column names as types",
         f"{_D}-column-num-headers {_D}-types-num"),
    rule("dataset.types-present", _COMPLEX, "a DataSet has types", f"{_D}-parameter-type-req"),
    rule("dataset.types-number", _COMPLEX, "types of columns are 32-bit unsigned integers",
         f"{_D}-types-def {_D}-types-type"),
    rule("dataset.types-known", _COMPLEX, "types of columns are basic types", f"{_D}-types-value"),
    rule("dataset.values", _COMPLEX, "elements of a DataSet have a basic value", f"{_T}-dataset-value"),
    rule("template.only-nbirth", _COMPLEX, "template definitions are in NBIRTH only", f"{_T}-definition-nbirth-only"),
    rule("template.flag", _COMPLEX, "templates have is_definition", f"{_T}-is-definition"),
    rule("template.definition", _COMPLEX, "a definition has is_definition = true",
         f"{_T}-definition-is-definition {_T}-is-definition-definition"),
    rule("template.definition-ref", _COMPLEX, "a definition has no template_ref",
         f"{_T}-definition-ref {_T}-ref-definition"),
    rule("template.instance", _COMPLEX, "an instance has is_definition = false",
         f"{_T}-instance-is-definition {_T}-is-definition-instance"),
    rule("template.instance-ref", _COMPLEX, "an instance has a template_ref", f"{_T}-instance-ref {_T}-ref-instance"),
    rule("template.defined", _COMPLEX, "instances have a definition in the NBIRTH",
         f"{_T}-definition-nbirth topics-nbirth-templates"),
    rule("template.members", _COMPLEX, "members of instances are in the definition",
         f"{_T}-definition-members {_T}-instance-members"),
    rule("template.members-birth", _COMPLEX, "an instance of a birth has all members", f"{_T}-instance-members-birth"),
    rule("template.members-data", "E complex publishes may", "an instance of data has some members",
         f"{_T}-instance-members-data"),
    rule("template.parameters", _COMPLEX, "parameters of instances are in the definition",
         f"{_T}-definition-parameters"),
    rule("template.parameter-values", "E complex publishes may", "an instance gives parameters",
         f"{_T}-instance-parameters"),
    rule("template.parameter-defaults", "E complex publishes may", "a definition gives values of parameters",
         f"{_T}-definition-parameters-default"),
    rule("template.version", _COMPLEX, "the version is text", f"{_T}-version"),
    rule("parameter.name", _COMPLEX, "parameters have a name",
         f"{_T}-parameter-name-required {_T}-parameter-name-type"),
    rule("parameter.type-number", _COMPLEX, "types of parameters are 32-bit unsigned integers",
         f"{_T}-parameter-value-type"),
    rule("parameter.type-known", _COMPLEX, "types of parameters are basic types", f"{_T}-parameter-type-value"),
    rule("parameter.type-birth", _COMPLEX, "parameters of births have a type", f"{_T}-parameter-type-req"),
    rule("parameter.value", _COMPLEX, "parameters have a basic value", f"{_T}-parameter-value"),
)  # fmt: skip
