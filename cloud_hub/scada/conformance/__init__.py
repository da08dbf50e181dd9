"""Checks a live Sparkplug B 3.0 namespace against the specification's normative statements.

`core/` judges: observed MQTT packets in, a verdict for each statement id out. It reads the bytes itself and shares no
session logic with the edge node or the host, so that it is an independent reading of the specification. The shells
observe (`subscriber`, `proxy`) and provoke (`stimulus`). See docs/scada/checker.md.
"""
