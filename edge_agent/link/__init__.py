"""The connection to the hub: `core.session` decides what to send, `uplink` sends it, `discovery` finds the broker."""
