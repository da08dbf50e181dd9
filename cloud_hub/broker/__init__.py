"""The MQTT broker: an embedded one for trying out, mosquitto configuration and checks, zeroconf announcement."""
