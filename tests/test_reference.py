"""The committed reference is just what the code says: openapi.json, asyncapi.yaml and both JSON Schemas."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import jsonschema
import msgspec
import pytest
import yaml

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", REFERENCE / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["openapi.json", "asyncapi.yaml", "edge-config.schema.json", "hub-settings.schema.json"]
)
def test_committed_file_equals_the_code(name: str) -> None:
    assert (REFERENCE / name).read_text("utf-8") == generator().files()[name], "run: make reference"


def test_the_agents_schema_accepts_a_real_configuration_and_refuses_an_unknown_key() -> None:
    schema = json.loads((REFERENCE / "edge-config.schema.json").read_text("utf-8"))
    good = msgspec.toml.decode(
        '[device]\nid = "a"\nprofile = "x86-64"\nstate_dir = "/tmp"\n[[collectors]]\nkind = "host"\ndisk = "/"\n'
    )
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(good | {"devise": {}}, schema)


def test_asyncapi_names_every_message_it_refers_to() -> None:
    document = yaml.safe_load((REFERENCE / "asyncapi.yaml").read_text("utf-8"))
    for channel in document["channels"].values():
        for message in channel["messages"].values():
            name = message["payload"]["$ref"].rpartition("/")[2]
            assert name in document["components"]["schemas"]
