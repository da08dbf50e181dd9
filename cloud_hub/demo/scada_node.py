"""A Sparkplug edge node made with pysparkplug, in place of a plant's machine: one node with one device.

It shares no code with Tidegate, and needs an interpreter that has pysparkplug (`make .venv-interop/.pip`):

    .venv-interop/bin/python cloud_hub/demo/scada_node.py --port 1883 --group plant --node press --device hydraulics

The device has the metrics `pressure` (Double), `setpoint` (Double), `running` (Boolean), `cycles` (Int64), `program`
(String) and `offset` (Int8, negative). What a host writes to the device it carries out and reports. Each command that
it receives is one JSON line on stdout. Lines on stdin:

    {"do": "data", "metric": "pressure", "value": 112.5}
    {"do": "deregister"}        the device dies, the node lives

It says goodbye and ends when stdin is closed.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import pysparkplug as sp

METRICS: dict[str, tuple[str, Any]] = {
    "pressure": ("DOUBLE", 110.0), "setpoint": ("DOUBLE", 110.0), "running": ("BOOLEAN", True),
    "cycles": ("INT64", 9_007_199_254_740_993), "program": ("STRING", "door left"), "offset": ("INT8", -5),
}  # fmt: skip


def metric(name: str, value: Any) -> sp.Metric:
    """A metric of the device with this value, now."""
    kind = sp.DataType[METRICS[name][0]]
    return sp.Metric(timestamp=sp.get_current_timestamp(), name=name, datatype=kind, value=value)


def show(event: str, **fields: Any) -> None:
    """One JSON line."""
    print(json.dumps({"event": event, **fields}, default=str), flush=True)


def main() -> int:
    """Run until stdin is closed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--port", type=int, required=True)
    for name in ("group", "node", "device"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()

    def written(node: sp.EdgeNode, message: sp.Message) -> None:
        for one in message.payload.metrics:
            show("dcmd", metric=one.name, value=one.value)
            if one.name in METRICS:
                node.update_device(args.device, [metric(one.name, one.value)])

    def commanded(_node: sp.EdgeNode, message: sp.Message) -> None:
        for one in message.payload.metrics:
            show("ncmd", metric=one.name, value=one.value)

    client = sp.Client(client_id=f"{args.group}-{args.node}")
    version = metric("program", "1.0")
    node = sp.EdgeNode(args.group, args.node, [version], client=client, cmd_callback=commanded)
    values = [metric(name, value) for name, (_, value) in METRICS.items()]
    node.register(sp.Device(device_id=args.device, metrics=values, cmd_callback=written))
    node.connect("127.0.0.1", port=args.port)
    show("started")
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "deregister":
            node.deregister(args.device)
        else:
            node.update_device(args.device, [metric(request["metric"], request["value"])])
    node.disconnect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
