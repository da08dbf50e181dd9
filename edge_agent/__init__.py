"""The edge agent: collects samples, evaluates limits, runs models and sends results to the hub; works offline."""
