"""The rules of a twin document on the device. No I/O."""
