"""Benchmarks: `python -m benchmarks.NAME [--json FILE]`. Each prints a peer or a physical limit beside our figure.

`--json` writes `{name, seed, machine, rows: [{dataset, method, metric, value, unit}]}`. Quote medians and ratios:
absolute times differ from machine to machine, and from run to run.
"""
