"""The agent's process never imports the libraries of the clients."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from edge_agent.collectors import modbus, mqtt_tap, opcua
from edge_agent.config import CollectorTable

def table(kind, **options):
    return CollectorTable(kind=kind, name=kind, period_s=None, options=options)

modbus.open_collector(table("modbus", address="plc:502", tags=[{"name": "a", "address": 40001}]))
opcua.open_collector(table("opcua", url="opc.tcp://plc:4840", tags=[{"name": "a", "node": "ns=2;s=a"}]))
mqtt_tap.open_collector(table("mqtt_tap", address="plc:1883", tags=[{"name": "a", "topic": "a"}]))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"pymodbus", "asyncua", "serial", "asyncio"}))
"""


def test_opening_all_plant_collectors_imports_no_client_library() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
