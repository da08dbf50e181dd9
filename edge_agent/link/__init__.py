"""The link: `session` decides, `uplink` carries out, `discovery` finds the broker."""
