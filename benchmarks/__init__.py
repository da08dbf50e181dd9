"""Benchmarks: `python -m benchmarks.NAME [--json FILE]`. Each prints a baseline or physical limit next to the result.

`--json` writes `{name, seed, machine, rows: [{dataset, method, metric, value, unit}]}`. Quote medians and ratios:
absolute times differ from machine to machine, and from run to run.
"""
