"""Pure rules of plant collectors: no I/O, no clock."""
