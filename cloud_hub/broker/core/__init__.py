"""The texts of a mosquitto configuration. No I/O."""
