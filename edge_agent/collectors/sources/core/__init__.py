"""Pure parts of background sources: no I/O, no clock."""
