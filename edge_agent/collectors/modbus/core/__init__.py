"""Modbus without I/O: addresses, register codec, batch planning, silent units."""
