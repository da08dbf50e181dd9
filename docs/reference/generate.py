"""Writes the machine-readable reference anew: `make reference`. A test fails while the files differ from the code.

openapi.json (REST), asyncapi.yaml (MQTT), edge-config.schema.json and hub-settings.schema.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import yaml

from cloud_hub.api.routes import create_rest_app
from cloud_hub.settings import Settings
from edge_agent.config import Config
from shared import VERSION
from shared.protocol import messages, topics

HERE = Path(__file__).parent
TWIN = "AWS device shadow document"


def edge_config() -> dict[str, Any]:
    """JSON Schema of the agent's TOML; each collector also takes the options of its kind."""
    schema = msgspec.json.schema(Config)
    table = schema["$defs"]["CollectorTable"]
    table["properties"].pop("options")
    table["required"] = ["kind"]
    table["additionalProperties"] = True
    schema["title"] = "Tidegate edge agent"
    return schema


def asyncapi() -> dict[str, Any]:
    """AsyncAPI 3.0 from the table of topics and the wire types."""
    named = sorted({row.payload for row in topics.TABLE if row.payload != TWIN})
    _, components = msgspec.json.schema_components(
        [getattr(messages, name) for name in named]
        + [messages.Sample, messages.Alarm, messages.Event, messages.Escalation],
        ref_template="#/components/schemas/{name}",
    )
    components["Twin"] = {"type": "object", "description": f"{TWIN}; see docs/topics.md"}
    channels, operations = {}, {}
    for row in topics.TABLE:
        key = row.rest.replace("<", "").replace(">", "").replace("/", "-")
        address = topics.thing("{device}", row.rest.replace("<", "{").replace(">", "}"))
        schema = "Twin" if row.payload == TWIN else row.payload
        message = {"payload": {"$ref": f"#/components/schemas/{schema}"}, "contentType": "application/json"}
        parameters = {name: {} for name in ("device", "cid", "name") if f"{{{name}}}" in address}
        channels[key] = {
            "address": address, "description": row.note, "parameters": parameters, "messages": {schema: message},
            "bindings": {"mqtt": {"qos": row.qos, "retain": row.retained}},
        }  # fmt: skip
        operations[key] = {
            "action": "receive" if row.sender == "device" else "send",
            "channel": {"$ref": f"#/channels/{key}"},
            "summary": f"sent by the {row.sender}",
        }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Tidegate over MQTT, as the hub sees it", "version": VERSION},
        "channels": channels,
        "operations": operations,
        "components": {"schemas": components},
    }


def files() -> dict[str, str]:
    """Name -> content of every generated file."""
    return {
        "openapi.json": json.dumps(create_rest_app().openapi(), indent=1, ensure_ascii=False) + "\n",
        "asyncapi.yaml": yaml.safe_dump(asyncapi(), sort_keys=False, allow_unicode=True, width=120),
        "edge-config.schema.json": json.dumps(edge_config(), indent=1) + "\n",
        "hub-settings.schema.json": json.dumps(Settings.model_json_schema(), indent=1) + "\n",
    }


if __name__ == "__main__":
    for name, content in files().items():
        (HERE / name).write_text(content, "utf-8")
        print(f"docs/reference/{name}: {len(content)} bytes")
