"""Reads the load of an engine from its metrics in Prometheus text format."""

from __future__ import annotations

import re

from cloud_hub.inference.engines.protocol import Load

RUNNING = ("vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing")
WAITING = ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred")
KV_CACHE = ("vllm:kv_cache_usage_perc", "sglang:token_usage", "llamacpp:kv_cache_usage_ratio")
"""Names of metrics of vLLM, SGLang and llama.cpp."""

_SAMPLE = re.compile(r"^([a-z]+:\w+)(?:\{[^}\n]*\})? ([0-9.eE+-]+)(?: \d+)?$", re.MULTILINE)


def read_load(text: str) -> Load | None:
    """The load in `text`, or None if there are no metrics of a known engine. Several series of one name are added."""
    found: dict[str, list[float]] = {}
    for name, value in _SAMPLE.findall(text):
        found.setdefault(name, []).append(float(value))
    running, waiting = (next((found[name] for name in names if name in found), None) for names in (RUNNING, WAITING))
    if running is None or waiting is None:
        return None
    cache = next((max(found[name]) for name in KV_CACHE if name in found), None)
    return Load(running=round(sum(running)), waiting=round(sum(waiting)), kv_cache=cache)
