"""Background sources: a producer in a process of its own reads a camera, files or a broker, and hands over frames.

Collectors must not block, retry or start threads. This package does it once for all of them:

- `protocol`  what a producer yields, and how it travels to the agent
- `worker`    the source process: runs the producer, and runs it again with backoff when its source is lost
- `process`   the agent's side: starts the process, receives frames in a thread, restarts it when it crashes or hangs
- `collector` the collector around it: frames, events about the source, its metrics
- `decoding`  PyAV: decoding, region of interest, resize, colour; imported only in the source process
"""
