"""What the collectors of plant protocols share: `modbus`, `opcua`, `mqtt_tap`.

- `tags`      tag lists in TOML or CSV, checked row by row
- `options`   options that all of them have, and polling groups
- `core`      pure: quality of tags over time, and the schedule of polling groups
- `messages`  what the client process and the agent tell each other
- `collector` the collector: samples, quality, events, metrics of itself, writes
- `reading`   one read of all tags, for `tidegate-edge tags read`

The clients (pymodbus, asyncua, paho) run in a process of their own (`edge_agent.collectors.sources`).
"""
